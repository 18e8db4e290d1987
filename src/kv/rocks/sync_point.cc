#include "kv/rocks/sync_point.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

#include "base/endian.h"
#include "base/log.h"

// In a header that RocksDB does not install.
namespace rocksdb::crc32c {
uint32_t Extend(uint32_t initial, const char* data, size_t length);
}

namespace fdbnbd::kv {

namespace {

namespace fs = std::filesystem;

constexpr char kFileName[] = "SYNC_POINT";
constexpr std::string_view kMagic = "fdbnbdSP";
constexpr size_t kFileBytes = 8 + 8 + 8 + 4;

// RocksDB's log format (its wiki, "Write Ahead Log File Format").
constexpr size_t kLogBlockBytes = 32 * 1024;
constexpr size_t kLogHeaderBytes = 7;
constexpr uint8_t kLastKnownRecordType = 4;

uint32_t checksum(std::string_view bytes) {
  return rocksdb::crc32c::Extend(0, bytes.data(), bytes.size());
}

std::string encode(SyncPoint::Position position) {
  std::string bytes(kMagic);
  append_be(bytes, position.log_number);
  append_be(bytes, position.bytes);
  append_be(bytes, checksum(bytes));
  return bytes;
}

std::optional<SyncPoint::Position> decode(std::string_view bytes) {
  if (bytes.size() < kFileBytes || !bytes.starts_with(kMagic)) return std::nullopt;
  if (load_be<uint32_t>(bytes.data() + 24) != checksum(bytes.substr(0, 24))) return std::nullopt;
  return SyncPoint::Position{load_be<uint64_t>(bytes.data() + 8), load_be<uint64_t>(bytes.data() + 16)};
}

std::string contents_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// The stored checksum of a record, as RocksDB masks it.
uint32_t masked(uint32_t crc) {
  return std::rotr(crc, 15) + 0xa282ead8;
}

uint32_t load_le32(const char* from) {
  return byte_swap(load_be<uint32_t>(from));
}

}  // namespace

std::optional<uint64_t> log_number_of(const fs::path& path) {
  if (path.extension() != ".log") return std::nullopt;
  const std::string stem = path.stem();
  uint64_t number = 0;
  const auto [rest, error] = std::from_chars(stem.data(), stem.data() + stem.size(), number);
  if (error != std::errc{} || rest != stem.data() + stem.size()) return std::nullopt;
  return number;
}

LogCheck check_log(std::string_view contents) {
  LogCheck check;
  size_t at = 0;
  while (at < contents.size()) {
    const size_t left_in_block = kLogBlockBytes - at % kLogBlockBytes;
    if (left_in_block < kLogHeaderBytes) {
      at += left_in_block;
      continue;
    }
    if (contents.size() - at < kLogHeaderBytes) {
      check.torn = true;
      return check;
    }
    const char* const header = contents.data() + at;
    const size_t length =
        static_cast<uint8_t>(header[4]) | static_cast<size_t>(static_cast<uint8_t>(header[5])) << 8;
    const auto type = static_cast<uint8_t>(header[6]);
    if (type == 0 || type > kLastKnownRecordType || kLogHeaderBytes + length > left_in_block) {
      check.damaged = true;
      return check;
    }
    if (contents.size() - at - kLogHeaderBytes < length) {
      check.torn = true;
      return check;
    }
    if (load_le32(header) != masked(checksum(contents.substr(at + 6, 1 + length)))) {
      check.damaged = true;
      return check;
    }
    at += kLogHeaderBytes + length;
    check.valid_bytes = at;
  }
  return check;
}

SyncPoint::SyncPoint(const std::string& store_path)
    : path_((fs::path(store_path) / kFileName).string()),
      file_(::open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600)) {}

void SyncPoint::note(Position position) {
  const std::string bytes = encode(position);
  if (::pwrite(file_.get(), bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size())) return;
  if (!failure_logged_) log::warning("{}: cannot be written: {}", path_, std::strerror(errno));
  failure_logged_ = true;
}

Result<void> SyncPoint::check_logs(const std::string& store_path) {
  const Position synced = decode(contents_of(fs::path(store_path) / kFileName)).value_or(Position{});
  std::map<uint64_t, fs::path> logs;
  std::error_code error;
  for (auto entry = fs::directory_iterator(store_path, error); !error && entry != fs::directory_iterator();
       entry.increment(error)) {
    if (const std::optional<uint64_t> number = log_number_of(entry->path()))
      logs.emplace(*number, entry->path());
  }
  for (const auto& [number, path] : logs) {
    const std::string contents = contents_of(path);
    const LogCheck check = check_log(contents);
    // Of an older log all is synced; a torn end there was never acknowledged (the disk was full).
    const bool lost = number < synced.log_number
                          ? check.damaged
                          : number == synced.log_number && check.valid_bytes < synced.bytes;
    if (lost) {
      return fail(
          Errc::corruption,
          fmt::format(
              "store {}: {} is damaged at byte {}, in a part that clients had flushed: opening it would lose "
              "their "
              "data. Put a good copy in its place; or remove {}, and what follows the damage is given up",
              store_path, path.filename().string(), check.valid_bytes, kFileName));
    }
    if (check.damaged) {
      log::warning(
          "store {}: {} does not verify from byte {} of {}: what follows was not flushed by anybody and is "
          "dropped",
          store_path, path.filename().string(), check.valid_bytes, contents.size());
    }
  }
  return {};
}

}  // namespace fdbnbd::kv
