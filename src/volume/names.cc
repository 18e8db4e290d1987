#include <fmt/core.h>

#include "base/limits.h"
#include "base/text.h"
#include "volume/store.h"

namespace fdbnbd::volume {

Result<void> check_volume_name(std::string_view name) {
  if (name.empty()) return fail(Errc::invalid, "a volume needs a name");
  if (name.size() > limits::kMaxVolumeNameBytes) {
    return fail(Errc::invalid, fmt::format("a volume name of {} bytes is too long: at most {}", name.size(),
                                           limits::kMaxVolumeNameBytes));
  }
  if (!is_valid_utf8(name)) return fail(Errc::invalid, "a volume name must be UTF-8");
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

std::string_view lock_state_name(LockInfo::State state) {
  switch (state) {
    case LockInfo::State::ours:
      return "ours";
    case LockInfo::State::alive:
      return "alive";
    case LockInfo::State::silent:
      return "silent";
  }
  return "?";
}

Result<SnapshotName> parse_snapshot_name(std::string_view name) {
  const size_t at = name.find('@');
  if (at == std::string_view::npos)
    return fail(Errc::invalid, fmt::format("\"{}\" is no snapshot: VOL@SNAP is needed", name));
  SnapshotName parsed{.volume = std::string(name.substr(0, at)),
                      .snapshot = std::string(name.substr(at + 1))};
  RETURN_IF_ERROR(check_volume_name(parsed.volume));
  if (parsed.snapshot.empty()) return fail(Errc::invalid, "a snapshot needs a name behind the \"@\"");
  RETURN_IF_ERROR(check_volume_name(parsed.snapshot));
  return parsed;
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
