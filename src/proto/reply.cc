#include "proto/reply.h"

#include <algorithm>
#include <cstring>

#include "base/assert.h"
#include "base/endian.h"
#include "base/limits.h"
#include "base/text.h"

namespace fdbnbd::proto {

static_assert(limits::kMaxStatusExtents <= 1u << 20, "NBD proto, NBD_REPLY_TYPE_BLOCK_STATUS");
static_assert(kMaxChunkTextBytes <= limits::kMaxStringBytes);

namespace {

void encode_chunk_header(std::byte* out, uint64_t cookie, Last last, ChunkType type, uint32_t payload_bytes) {
  store_be(out, kStructuredReplyMagic);
  store_be(out + 4, last == Last::yes ? kReplyFlagDone : uint16_t{0});
  store_be(out + 6, static_cast<uint16_t>(type));
  store_be(out + 8, cookie);
  store_be(out + 16, payload_bytes);
}

// The error and its text, which both error chunks begin with. Returns the bytes written.
size_t encode_error_payload(std::byte* out, NbdError error, std::string_view text) {
  store_be(out, static_cast<uint32_t>(error));
  store_be(out + 4, static_cast<uint16_t>(text.size()));
  if (!text.empty()) std::memcpy(out + 6, text.data(), text.size());
  return 6 + text.size();
}

}  // namespace

void encode_simple_reply(std::span<std::byte, kSimpleReplyBytes> out, uint64_t cookie, NbdError error) {
  store_be(&out[0], kSimpleReplyMagic);
  store_be(&out[4], static_cast<uint32_t>(error));
  store_be(&out[8], cookie);
}

std::optional<SimpleReply> decode_simple_reply(std::span<const std::byte, kSimpleReplyBytes> bytes) {
  if (load_be<uint32_t>(&bytes[0]) != kSimpleReplyMagic) return std::nullopt;
  return SimpleReply{.cookie = load_be<uint64_t>(&bytes[8]), .error = load_be<uint32_t>(&bytes[4])};
}

void encode_none_chunk(std::span<std::byte, kNoneChunkBytes> out, uint64_t cookie) {
  encode_chunk_header(out.data(), cookie, Last::yes, ChunkType::none, 0);
}

void encode_offset_data_header(std::span<std::byte, kOffsetDataHeaderBytes> out, uint64_t cookie, Last last,
                               uint64_t offset_bytes, uint32_t data_bytes) {
  ASSERT(data_bytes > 0 && data_bytes <= UINT32_MAX - 8);
  encode_chunk_header(out.data(), cookie, last, ChunkType::offset_data, 8 + data_bytes);
  store_be(&out[kChunkHeaderBytes], offset_bytes);
}

void encode_offset_hole(std::span<std::byte, kOffsetHoleChunkBytes> out, uint64_t cookie, Last last,
                        uint64_t offset_bytes, uint32_t hole_bytes) {
  ASSERT(hole_bytes > 0);
  encode_chunk_header(out.data(), cookie, last, ChunkType::offset_hole, 8 + 4);
  store_be(&out[kChunkHeaderBytes], offset_bytes);
  store_be(&out[kChunkHeaderBytes + 8], hole_bytes);
}

void encode_block_status_header(std::span<std::byte, kBlockStatusHeaderBytes> out, uint64_t cookie, Last last,
                                uint32_t context_id, uint32_t descriptors_count) {
  ASSERT(descriptors_count > 0 && descriptors_count <= limits::kMaxStatusExtents);
  const auto payload_bytes = static_cast<uint32_t>(4 + kStatusDescriptorBytes * descriptors_count);
  encode_chunk_header(out.data(), cookie, last, ChunkType::block_status, payload_bytes);
  store_be(&out[kChunkHeaderBytes], context_id);
}

void encode_status_descriptor(std::span<std::byte, kStatusDescriptorBytes> out, uint32_t length_bytes,
                              uint32_t status_flags) {
  ASSERT(length_bytes > 0);
  store_be(&out[0], length_bytes);
  store_be(&out[4], status_flags);
}

uint32_t status_descriptor_length(uint64_t offset_bytes, uint64_t length_bytes) {
  ASSERT(length_bytes > 0);
  if (length_bytes <= UINT32_MAX) return static_cast<uint32_t>(length_bytes);
  // How far into its aligned unit the extent begins; the cut is that much short of an aligned length.
  const auto misalignment = static_cast<uint32_t>(offset_bytes % limits::kStatusExtentAlignment);
  constexpr auto kAligned =
      static_cast<uint32_t>(UINT32_MAX / limits::kStatusExtentAlignment * limits::kStatusExtentAlignment);
  return kAligned - misalignment;
}

size_t encode_error_chunk(std::span<std::byte, kMaxErrorChunkBytes> out, uint64_t cookie, NbdError error,
                          std::string_view text) {
  ASSERT(error != NbdError::ok);
  text = utf8_prefix(text, kMaxChunkTextBytes);
  const size_t payload_bytes = encode_error_payload(&out[kChunkHeaderBytes], error, text);
  encode_chunk_header(out.data(), cookie, Last::yes, ChunkType::error, static_cast<uint32_t>(payload_bytes));
  return kChunkHeaderBytes + payload_bytes;
}

size_t encode_error_offset_chunk(std::span<std::byte, kMaxErrorOffsetChunkBytes> out, uint64_t cookie,
                                 Last last, NbdError error, std::string_view text, uint64_t offset_bytes) {
  ASSERT(error != NbdError::ok);
  text = utf8_prefix(text, kMaxChunkTextBytes);
  size_t payload_bytes = encode_error_payload(&out[kChunkHeaderBytes], error, text);
  store_be(&out[kChunkHeaderBytes + payload_bytes], offset_bytes);
  payload_bytes += sizeof offset_bytes;
  encode_chunk_header(out.data(), cookie, last, ChunkType::error_offset,
                      static_cast<uint32_t>(payload_bytes));
  return kChunkHeaderBytes + payload_bytes;
}

}  // namespace fdbnbd::proto
