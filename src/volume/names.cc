#include "volume/names.h"

#include <fmt/core.h>

#include "base/limits.h"
#include "volume/store.h"

namespace fdbnbd::volume {

bool is_utf8(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    const auto lead = static_cast<unsigned char>(text[i]);
    size_t length = 0;
    uint32_t code = 0;
    uint32_t lowest = 0;
    if (lead < 0x80) {
      ++i;
      continue;
    }
    if (lead >> 5 == 0b110) {
      length = 2, code = lead & 0x1f, lowest = 0x80;
    } else if (lead >> 4 == 0b1110) {
      length = 3, code = lead & 0x0f, lowest = 0x800;
    } else if (lead >> 3 == 0b11110) {
      length = 4, code = lead & 0x07, lowest = 0x10000;
    } else {
      return false;
    }
    if (text.size() - i < length) return false;
    for (size_t k = 1; k < length; ++k) {
      const auto next = static_cast<unsigned char>(text[i + k]);
      if (next >> 6 != 0b10) return false;
      code = code << 6 | (next & 0x3f);
    }
    if (code < lowest || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return false;
    i += length;
  }
  return true;
}

Result<void> check_volume_name(std::string_view name) {
  if (name.empty()) return fail(Errc::invalid, "a volume needs a name");
  if (name.size() > limits::kMaxVolumeNameBytes) {
    return fail(Errc::invalid, fmt::format("a volume name of {} bytes is too long: at most {}", name.size(),
                                           limits::kMaxVolumeNameBytes));
  }
  if (!is_utf8(name)) return fail(Errc::invalid, "a volume name must be UTF-8");
  for (size_t i = 0; i < name.size(); ++i) {
    const auto byte = static_cast<unsigned char>(name[i]);
    // U+0080 to U+009F, the second set of control characters, are C2 80 to C2 9F.
    const bool is_second_set = byte == 0xc2 && static_cast<unsigned char>(name[i + 1]) < 0xa0;
    if (byte < 0x20 || byte == 0x7f || is_second_set)
      return fail(Errc::invalid, "a volume name must not have control characters");
    if (byte == '/' || byte == '@') {
      return fail(Errc::invalid,
                  fmt::format("volume name \"{}\" has a \"{}\", which is not allowed", name, name[i]));
    }
  }
  return {};
}

std::string_view compression_name(Compression compression) {
  switch (compression) {
    case Compression::none:
      return "none";
    case Compression::lz4:
      return "lz4";
    case Compression::zstd:
      return "zstd";
  }
  return "?";
}

Result<Compression> parse_compression(std::string_view name) {
  for (const Compression compression : {Compression::none, Compression::lz4, Compression::zstd}) {
    if (name == compression_name(compression)) return compression;
  }
  return fail(Errc::invalid, fmt::format("\"{}\" is no compression: use none, lz4 or zstd", name));
}

}  // namespace fdbnbd::volume
