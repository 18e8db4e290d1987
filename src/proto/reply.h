#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "base/bytes.h"
#include "proto/constants.h"

// Replies of the transmission phase (NBD proto, "Simple reply message", "Structured reply chunk message"),
// written into memory of the caller, without allocation. Where data follows, only what stands before it is
// written here, and the data can be sent from where it lies.

namespace fdbnbd::proto {

inline constexpr size_t kSimpleReplyBytes = 16;
inline constexpr size_t kChunkHeaderBytes = 20;
inline constexpr size_t kNoneChunkBytes = kChunkHeaderBytes;
inline constexpr size_t kOffsetDataHeaderBytes = kChunkHeaderBytes + 8;
inline constexpr size_t kOffsetHoleChunkBytes = kChunkHeaderBytes + 8 + 4;
inline constexpr size_t kBlockStatusHeaderBytes = kChunkHeaderBytes + 4;
inline constexpr size_t kStatusDescriptorBytes = 8;
// The text of an error chunk is cut to this, so that one buffer size fits every error chunk.
inline constexpr size_t kMaxChunkTextBytes = 256;
inline constexpr size_t kMaxErrorChunkBytes = kChunkHeaderBytes + 4 + 2 + kMaxChunkTextBytes;
inline constexpr size_t kMaxErrorOffsetChunkBytes = kMaxErrorChunkBytes + 8;

enum class Last : bool { no = false, yes = true };  // sets NBD_REPLY_FLAG_DONE

// A READ's data follows when `error` is ok and structured replies were not negotiated.
void encode_simple_reply(std::span<std::byte, kSimpleReplyBytes> out, uint64_t cookie, NbdError error);

struct SimpleReply {
  uint64_t cookie = 0;
  uint32_t error = 0;  // an NbdError, or any other number

  friend bool operator==(const SimpleReply&, const SimpleReply&) = default;
};
// nullopt: wrong magic; the stream is out of step.
std::optional<SimpleReply> decode_simple_reply(std::span<const std::byte, kSimpleReplyBytes> bytes);

// NBD_REPLY_TYPE_NONE, always the last chunk.
void encode_none_chunk(std::span<std::byte, kNoneChunkBytes> out, uint64_t cookie);

// NBD_REPLY_TYPE_OFFSET_DATA; `data_bytes` bytes must follow. data_bytes > 0.
void encode_offset_data_header(std::span<std::byte, kOffsetDataHeaderBytes> out, uint64_t cookie, Last last,
                               uint64_t offset_bytes, uint32_t data_bytes);

// NBD_REPLY_TYPE_OFFSET_HOLE. hole_bytes > 0.
void encode_offset_hole(std::span<std::byte, kOffsetHoleChunkBytes> out, uint64_t cookie, Last last,
                        uint64_t offset_bytes, uint32_t hole_bytes);

// NBD_REPLY_TYPE_BLOCK_STATUS; `descriptors_count` descriptors must follow, at least one.
void encode_block_status_header(std::span<std::byte, kBlockStatusHeaderBytes> out, uint64_t cookie, Last last,
                                uint32_t context_id, uint32_t descriptors_count);
// length_bytes > 0.
void encode_status_descriptor(std::span<std::byte, kStatusDescriptorBytes> out, uint32_t length_bytes,
                              uint32_t status_flags);

// The flags of a base:allocation descriptor.
constexpr uint32_t allocation_flags(bool is_hole, bool is_zero) {
  return (is_hole ? kStateHole : 0) | (is_zero ? kStateZero : 0);
}

// The length to tell of an extent at offset_bytes that is length_bytes long: the same, or, where it does not
// fit 32 bits, cut so that it ends on a multiple of limits::kStatusExtentAlignment. length_bytes > 0; so is
// the result.
uint32_t status_descriptor_length(uint64_t offset_bytes, uint64_t length_bytes);

// NBD_REPLY_TYPE_ERROR, always sent as the last chunk. Returns the bytes written. `error` is not ok; `text`
// is cut to kMaxChunkTextBytes.
size_t encode_error_chunk(std::span<std::byte, kMaxErrorChunkBytes> out, uint64_t cookie, NbdError error,
                          std::string_view text);

// NBD_REPLY_TYPE_ERROR_OFFSET; the same with the place of the error.
size_t encode_error_offset_chunk(std::span<std::byte, kMaxErrorOffsetChunkBytes> out, uint64_t cookie,
                                 Last last, NbdError error, std::string_view text, uint64_t offset_bytes);

}  // namespace fdbnbd::proto
