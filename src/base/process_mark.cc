#include "base/process_mark.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <sstream>
#include <string>

namespace fdbnbd {

namespace {

// FNV-1a: the same on every build, since processes of different versions compare marks.
uint64_t hash_of(const std::string& text) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

uint64_t this_host() {
  std::string boot_id;
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), boot_id);
  std::error_code failed;
  const std::string pid_names = std::filesystem::read_symlink("/proc/self/ns/pid", failed).string();
  if (boot_id.empty() || failed) return 0;
  return hash_of(boot_id + pid_names);
}

// Field 22 of /proc/PID/stat (proc(5)); nothing where there is no such process, or it has only to be reaped.
std::optional<uint64_t> start_of(uint32_t pid) {
  std::string line;
  std::getline(std::ifstream("/proc/" + std::to_string(pid) + "/stat"), line);
  // The command's name, field 2, is in parentheses and may hold anything.
  const size_t behind_name = line.rfind(')');
  if (behind_name == std::string::npos) return std::nullopt;
  std::istringstream fields(line.substr(behind_name + 1));
  char state = 0;
  fields >> state;
  if (state == 'Z' || state == 'X') return std::nullopt;
  std::string skipped;
  for (int field = 4; field < 22; ++field) fields >> skipped;
  uint64_t started = 0;
  fields >> started;
  return fields ? std::optional(started) : std::nullopt;
}

}  // namespace

ProcessMark this_process() {
  const auto pid = static_cast<uint32_t>(::getpid());
  const std::optional<uint64_t> started = start_of(pid);
  return {.host = started ? this_host() : 0, .pid = pid, .started = started.value_or(0)};
}

bool has_ended(const ProcessMark& process) {
  if (process.host == 0 || process.host != this_host()) return false;
  const std::optional<uint64_t> started = start_of(process.pid);
  return !started || *started != process.started;
}

}  // namespace fdbnbd
