#include "kv/rocks/file_faults_testing.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <mutex>
#include <shared_mutex>
#include <utility>

// The functions below take the place of the C library's, for shared libraries too.

namespace fdbnbd::kv {
namespace {

std::atomic<bool> faults_active = false;
std::shared_mutex judge_mutex;
FileFaults::Judge active_judge;  // guarded by judge_mutex

std::string path_of(int fd) {
  std::array<char, 4096> path{};
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  const ssize_t length = readlink(link.c_str(), path.data(), path.size());
  return length > 0 ? std::string(path.data(), static_cast<size_t>(length)) : std::string();
}

FileFaults::Verdict judge(FileFaults::Call call, std::string path, size_t bytes = 0) {
  std::array<char, 16> thread{};
  pthread_getname_np(pthread_self(), thread.data(), thread.size());
  const std::shared_lock lock(judge_mutex);
  if (!active_judge) return {};
  return active_judge({.call = call, .path = std::move(path), .bytes = bytes, .thread = thread.data()});
}

// Whether the call is to fail; errno is set then.
bool fails(FileFaults::Call call, const char* path) {
  if (!faults_active) return false;
  const FileFaults::Verdict verdict = judge(call, path);
  errno = verdict.error;
  return verdict.error != 0;
}

bool sync_fails(int fd) {
  return faults_active && fails(FileFaults::Call::sync, path_of(fd).c_str());
}

}  // namespace

FileFaults::FileFaults(Judge judge) {
  const std::unique_lock lock(judge_mutex);
  active_judge = std::move(judge);
  faults_active = true;
}

FileFaults::~FileFaults() {
  faults_active = false;
  const std::unique_lock lock(judge_mutex);
  active_judge = nullptr;
}

}  // namespace fdbnbd::kv

using fdbnbd::kv::FileFaults;

extern "C" {

int open(const char* path, int flags, ...) {
  mode_t mode = 0;
  if ((flags & (O_CREAT | O_TMPFILE)) != 0) {
    va_list arguments;
    va_start(arguments, flags);
    mode = va_arg(arguments, mode_t);
    va_end(arguments);
  }
  if ((flags & O_CREAT) != 0 && fdbnbd::kv::fails(FileFaults::Call::create, path)) return -1;
  return static_cast<int>(syscall(SYS_openat, AT_FDCWD, path, flags, mode));
}

ssize_t write(int fd, const void* data, size_t bytes) {
  if (fdbnbd::kv::faults_active) {
    const FileFaults::Verdict verdict =
        fdbnbd::kv::judge(FileFaults::Call::write, fdbnbd::kv::path_of(fd), bytes);
    if (verdict.error != 0 && verdict.written_bytes == 0) {
      errno = verdict.error;
      return -1;
    }
    if (verdict.error != 0) bytes = std::min(bytes, verdict.written_bytes);
  }
  return syscall(SYS_write, fd, data, bytes);
}

int fdatasync(int fd) {
  if (fdbnbd::kv::sync_fails(fd)) return -1;
  return static_cast<int>(syscall(SYS_fdatasync, fd));
}

int fsync(int fd) {
  if (fdbnbd::kv::sync_fails(fd)) return -1;
  return static_cast<int>(syscall(SYS_fsync, fd));
}

int fallocate(int fd, int mode, off_t offset, off_t bytes) {
  // Others are about giving space back.
  if (fdbnbd::kv::faults_active && mode == FALLOC_FL_KEEP_SIZE &&
      fdbnbd::kv::fails(FileFaults::Call::reserve, fdbnbd::kv::path_of(fd).c_str()))
    return -1;
  return static_cast<int>(syscall(SYS_fallocate, fd, mode, offset, bytes));
}

}  // extern "C"
