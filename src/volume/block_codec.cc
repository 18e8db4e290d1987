#include "volume/block_codec.h"

#include <fmt/core.h>
#include <lz4.h>
#include <xxhash.h>
#include <zstd.h>

#include <memory>

#include "base/assert.h"
#include "base/endian.h"
#include "base/limits.h"

namespace fdbnbd::volume {

namespace {

constexpr int kZstdLevel = 1;

struct ZstdContexts {
  struct FreeC {
    void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
  };
  struct FreeD {
    void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
  };
  std::unique_ptr<ZSTD_CCtx, FreeC> compress{ZSTD_createCCtx()};
  std::unique_ptr<ZSTD_DCtx, FreeD> decompress{ZSTD_createDCtx()};
};

ZstdContexts& zstd_contexts() {
  thread_local ZstdContexts contexts;
  return contexts;
}

// The compressed bytes' count in `to`, or 0 where they do not fit into `room`.
size_t compress(Compression compression, ByteView block, char* to, size_t room) {
  const auto* const from = reinterpret_cast<const char*>(block.data());
  switch (compression) {
    case Compression::none:
      return 0;
    case Compression::lz4: {
      const int written =
          LZ4_compress_default(from, to, static_cast<int>(block.size()), static_cast<int>(room));
      return written > 0 ? static_cast<size_t>(written) : 0;
    }
    case Compression::zstd: {
      const size_t written =
          ZSTD_compressCCtx(zstd_contexts().compress.get(), to, room, from, block.size(), kZstdLevel);
      return ZSTD_isError(written) != 0 ? 0 : written;
    }
  }
  return 0;
}

uint64_t checksum(std::string_view payload_and_codec, uint64_t block_index) {
  return XXH3_64bits_withSeed(payload_and_codec.data(), payload_and_codec.size(), block_index);
}

}  // namespace

void append_block_value(std::string& to, ByteView block, uint64_t block_index, Compression compression) {
  ASSERT(block.size() <= limits::kMaxBlockBytes);
  const size_t start = to.size();
  const size_t worthwhile = block.size() - block.size() / 16;
  size_t payload_bytes = 0;
  if (compression != Compression::none) {
    to.resize(start + worthwhile);
    payload_bytes = compress(compression, block, to.data() + start, worthwhile);
    to.resize(start + payload_bytes);
  }
  Compression stored = compression;
  if (payload_bytes == 0) {
    stored = Compression::none;
    to.append(as_text(block));
  }
  to += static_cast<char>(stored);
  append_be(to, checksum(std::string_view(to).substr(start), block_index));
}

Result<void> decode_block_value(std::string_view value, uint64_t block_index, MutableByteView block) {
  if (value.size() < kBlockTrailerBytes) {
    return fail(Errc::corruption, fmt::format("stored block of {} bytes is too short", value.size()));
  }
  const std::string_view covered = value.substr(0, value.size() - 8);
  if (checksum(covered, block_index) != load_be<uint64_t>(value.data() + covered.size())) {
    return fail(Errc::corruption, "checksum does not match");
  }
  const std::string_view payload = covered.substr(0, covered.size() - 1);
  switch (static_cast<Compression>(covered.back())) {
    case Compression::none:
      if (payload.size() != block.size()) break;
      std::memcpy(block.data(), payload.data(), payload.size());
      return {};
    case Compression::lz4: {
      const int unpacked =
          LZ4_decompress_safe(payload.data(), reinterpret_cast<char*>(block.data()),
                              static_cast<int>(payload.size()), static_cast<int>(block.size()));
      if (unpacked < 0 || static_cast<size_t>(unpacked) != block.size()) break;
      return {};
    }
    case Compression::zstd:
      if (ZSTD_decompressDCtx(zstd_contexts().decompress.get(), block.data(), block.size(), payload.data(),
                              payload.size()) != block.size()) {
        break;
      }
      return {};
    default:
      return fail(Errc::newer_format,
                  fmt::format("unknown codec {}", static_cast<unsigned char>(covered.back())));
  }
  return fail(Errc::corruption, "payload does not unpack to one block");
}

}  // namespace fdbnbd::volume
