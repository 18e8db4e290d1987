#include "attach/device.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>

#include "base/limits.h"
#include "net/fd.h"

namespace fdbnbd::attach {

namespace {

constexpr std::string_view kDevicePrefix = "/dev/nbd";
constexpr std::string_view kNamePrefix = "nbd";
constexpr uint64_t kSysfsSectorBytes = 512;  // whatever the device's own sectors are
constexpr std::string_view kBackendPrefix = "fdb-nbd:";

template <typename Number>
std::optional<Number> parse_number(std::string_view text) {
  Number number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return number;
}

// The first line of a file of sysfs.
std::optional<std::string> read_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  return line;
}

std::optional<uint32_t> parse_index(std::string_view digits) {
  const auto index = parse_number<uint32_t>(digits);
  return index && *index <= limits::kMaxDeviceIndex ? index : std::nullopt;
}

// The word number `count` of a line; empty where it has fewer.
std::string_view word(std::string_view line, size_t count) {
  for (; count > 0; --count) {
    const size_t space = line.find(' ');
    if (space == std::string_view::npos) return {};
    line.remove_prefix(space + 1);
  }
  return line.substr(0, line.find(' '));
}

// "/dev/nbd1" and "/dev/nbd1p2" are of "/dev/nbd1", "/dev/nbd11" is not.
bool is_of_device(std::string_view source, std::string_view device) {
  if (!source.starts_with(device)) return false;
  const std::string_view rest = source.substr(device.size());
  return rest.empty() || rest.front() == 'p';
}

}  // namespace

Result<uint32_t> parse_device_path(std::string_view path) {
  if (path.starts_with(kDevicePrefix)) {
    if (const auto index = parse_index(path.substr(kDevicePrefix.size()))) return *index;
  }
  return fail(Errc::invalid, fmt::format("\"{}\" is no NBD device, as /dev/nbd0 is", path));
}

std::string device_path(uint32_t index) {
  return fmt::format("{}{}", kDevicePrefix, index);
}

std::optional<AttachedDevice> Devices::find(uint32_t index) const {
  const std::string directory = fmt::format("{}/{}{}", sys_block_, kNamePrefix, index);
  const auto pid_text = read_line(directory + "/pid");
  if (!pid_text) return std::nullopt;
  return AttachedDevice{.index = index,
                        .pid = parse_number<int64_t>(*pid_text).value_or(0),
                        .backend = read_line(directory + "/backend").value_or("")};
}

proto::ExportTerms Devices::terms(uint32_t index) const {
  const std::string directory = fmt::format("{}/{}{}", sys_block_, kNamePrefix, index);
  const auto has = [&](const char* file, std::string_view value) {
    return read_line(directory + file) == value;
  };
  const auto sectors = parse_number<uint64_t>(read_line(directory + "/size").value_or(""));
  unsigned flags = proto::kFlagHasFlags;
  if (has("/ro", "1")) flags |= proto::kFlagReadOnly;
  if (has("/queue/write_cache", "write back")) flags |= proto::kFlagSendFlush;
  if (has("/queue/fua", "1")) flags |= proto::kFlagSendFua;
  if (!has("/queue/discard_max_bytes", "0")) flags |= proto::kFlagSendTrim;
  return {.size_bytes = sectors.value_or(0) * kSysfsSectorBytes, .flags = static_cast<uint16_t>(flags)};
}

std::vector<AttachedDevice> Devices::list() const {
  std::vector<AttachedDevice> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(sys_block_, error)) {
    const std::string name = entry.path().filename();
    if (!name.starts_with(kNamePrefix)) continue;
    const auto index = parse_index(std::string_view(name).substr(kNamePrefix.size()));
    if (!index) continue;
    if (auto device = find(*index)) found.push_back(std::move(*device));
  }
  std::ranges::sort(found, {}, &AttachedDevice::index);
  return found;
}

std::string backend_of(std::string_view volume) {
  return fmt::format("{}{}", kBackendPrefix, volume);
}

std::optional<std::string> volume_of(std::string_view backend) {
  if (!backend.starts_with(kBackendPrefix)) return std::nullopt;
  return std::string(backend.substr(kBackendPrefix.size()));
}

Result<void> check_unused(uint32_t index) {
  const std::string device = device_path(index);
  // Whoever mounts a device, swaps on it or builds on it has it exclusively, in whatever mount namespace.
  const net::OwnedFd probe(::open(device.c_str(), O_RDONLY | O_EXCL | O_NONBLOCK | O_CLOEXEC));
  if (probe || errno != EBUSY) return {};
  std::ifstream file("/proc/self/mountinfo");
  const std::string mountinfo{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (const auto where = mounted_at(mountinfo, device))
    return fail(Errc::busy, fmt::format("{} is mounted at {}; unmount it first", device, *where));
  return fail(
      Errc::busy,
      fmt::format("{} is in use: swap, another device, or a mount elsewhere; see: lsblk {}", device, device));
}

std::optional<std::string> mounted_at(std::string_view mountinfo, std::string_view device) {
  constexpr size_t kMountPointWord = 4;
  constexpr std::string_view kSeparator = " - ";  // then the type, the source
  while (!mountinfo.empty()) {
    const std::string_view line = mountinfo.substr(0, mountinfo.find('\n'));
    mountinfo.remove_prefix(std::min(line.size() + 1, mountinfo.size()));
    const size_t separator = line.find(kSeparator);
    if (separator == std::string_view::npos) continue;
    const std::string_view source = word(line.substr(separator + kSeparator.size()), 1);
    if (is_of_device(source, device)) return std::string(word(line, kMountPointWord));
  }
  return std::nullopt;
}

}  // namespace fdbnbd::attach
