#include "attach/attachment.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

// glibc 2.36 declares these as if they were C++.
extern "C" {
#include <sys/pidfd.h>
}

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <thread>
#include <utility>

#include "base/assert.h"
#include "base/limits.h"
#include "base/log.h"

namespace fdbnbd::attach {

namespace {

constexpr auto kFreePoll = std::chrono::milliseconds(50);

// The name of the process that supervises a device, as ps shows it: how it is found. The kernel keeps 15
// bytes.
std::string supervisor_name(uint32_t index) {
  return fmt::format("fdb-nbd/{}", index);
}
static_assert(limits::kMaxDeviceIndex < 10'000'000);

bool is_supervisor(pid_t pid, uint32_t index) {
  const std::string directory = fmt::format("/proc/{}", pid);
  struct stat status{};
  if (::stat(directory.c_str(), &status) != 0 || status.st_uid != 0) return false;
  std::ifstream file(directory + "/comm");
  std::string name;
  return std::getline(file, name) && name == supervisor_name(index);
}

std::optional<pid_t> find_supervisor(uint32_t index) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
    const std::string name = entry.path().filename();
    pid_t pid = 0;
    const auto [end, failed] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (failed != std::errc() || end != name.data() + name.size()) continue;
    if (is_supervisor(pid, index)) return pid;
  }
  return std::nullopt;
}

// The disk that the supervisor brings back may be the one that its own pages are on, or the swap space that
// the kernel wants to write to for the memory that it asks for. Each of these needs a privilege; without it
// the rest still helps.
void prepare_for_outages() {
  (void)::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
  (void)::mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT);
  std::ofstream("/proc/self/oom_score_adj") << -1000;
}

int poll_timeout_ms(Duration wait) {
  return static_cast<int>(std::chrono::ceil<std::chrono::milliseconds>(wait).count());
}

// Asks the supervisor of the device to leave it alone, and waits until it has ended.
void end_supervisor(uint32_t index) {
  const auto pid = find_supervisor(index);
  if (!pid) return;
  const net::OwnedFd process(::pidfd_open(*pid, 0));
  // The number could be another process's by now; from here on it is this one's.
  if (!process || !is_supervisor(*pid, index)) return;
  if (::pidfd_send_signal(process.get(), SIGHUP, nullptr, 0) != 0) return;
  pollfd ended{.fd = process.get(), .events = POLLIN, .revents = 0};
  if (::poll(&ended, 1, poll_timeout_ms(limits::kDetachPatience)) <= 0)
    log::warning("the supervisor of {}, process {}, does not end", device_path(index), *pid);
}

// Whether the device is attached as this export, and nobody looks after it.
bool has_lost_supervisor(uint32_t index, std::string_view export_name) {
  const auto device = Devices().find(index);
  return device && device->backend == backend_of(export_name) && !find_supervisor(index);
}

Result<void> wait_until_free(uint32_t index) {
  const auto deadline = std::chrono::steady_clock::now() + limits::kDetachPatience;
  const Devices devices;
  while (devices.find(index)) {
    if (std::chrono::steady_clock::now() >= deadline) {
      return fail(Errc::timeout,
                  fmt::format("{} is detached, but some program still has it open; see: fuser -v {}",
                              device_path(index), device_path(index)));
    }
    std::this_thread::sleep_for(kFreePoll);
  }
  return {};
}

// The process that the kernel shows for a device.
int64_t attached_pid(const Devices& devices, uint32_t index) {
  const auto device = devices.find(index);
  return device ? device->pid : 0;
}

}  // namespace

Attachment::Attachment(Servers& servers, KernelNbd kernel, const AttachOptions& options, uint32_t index,
                       const proto::ExportTerms& terms, uint32_t connections_count)
    : servers_(servers),
      kernel_(std::move(kernel)),
      timeouts_(options.timeouts),
      index_(index),
      pid_(attached_pid(devices_, index)),
      supervised_({.device = device_path(index), .terms = terms, .connections_count = connections_count}) {
  // Here, so that whoever learns of the device can find its supervisor.
  (void)::prctl(PR_SET_NAME, supervisor_name(index).c_str());
}

Result<std::unique_ptr<Attachment>> Attachment::start(Servers& servers, const AttachOptions& options) {
  ASSIGN_OR_RETURN(KernelNbd kernel, KernelNbd::open());
  if (options.index && has_lost_supervisor(*options.index, servers.export_name())) {
    // Nobody has counted its connections, nor those that died meanwhile.
    std::unique_ptr<Attachment> attachment(new Attachment(servers, std::move(kernel), options, *options.index,
                                                          Devices().terms(*options.index),
                                                          limits::kMaxDeviceConnections));
    attachment->some_links_may_be_dead_ = true;
    return attachment;
  }
  std::vector<Link> links;
  do {
    ASSIGN_OR_RETURN(Link link, servers.open());
    links.push_back(std::move(link));
  } while (links.size() < options.connections_count &&
           (links.front().terms.flags & proto::kFlagCanMultiConn) != 0);

  proto::ExportTerms terms = links.front().terms;
  if (options.read_only) terms.flags |= proto::kFlagReadOnly;
  ConnectRequest request{.index = options.index,
                         .size_bytes = terms.size_bytes,
                         .flags = terms.flags,
                         .timeouts = options.timeouts,
                         .backend = backend_of(servers.export_name()),
                         .sockets = {}};
  for (const Link& link : links) request.sockets.push_back(link.socket.get());
  const auto index = kernel.connect(request);
  if (!index && index.error().code == Errc::busy && options.index) {
    return fail(Errc::busy,
                fmt::format("{} is attached already; another one that is free: leave the device out",
                            device_path(*options.index)));
  }
  if (!index) return tl::unexpected(index.error());
  for (const Link& link : links) {
    if (!was_taken(link.socket.get()))
      log::warning("the kernel has left a connection of {} unused", device_path(*index));
  }
  return std::unique_ptr<Attachment>(new Attachment(servers, std::move(kernel), options, *index, terms,
                                                    static_cast<uint32_t>(links.size())));
}

void Attachment::supervise() {
  prepare_for_outages();
  sigset_t signals;
  ::sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) ::sigaddset(&signals, signal);
  const net::OwnedFd signal_fd(::signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC));
  ASSERT(signal_fd);

  Supervisor supervisor(supervised_, *this, servers_, system_clock());
  if (some_links_may_be_dead_) supervisor.on_links_dead(supervised_.connections_count);
  for (;;) {
    const Duration wait = supervisor.step();
    if (supervisor.over()) return log::info("{} was detached", supervised_.device);
    std::array<pollfd, 2> descriptors{
        pollfd{.fd = kernel_.events_descriptor(), .events = POLLIN, .revents = 0},
        pollfd{.fd = signal_fd.get(), .events = POLLIN, .revents = 0}};
    (void)::poll(descriptors.data(), descriptors.size(), poll_timeout_ms(wait));
    signalfd_siginfo signal{};
    if (::read(signal_fd.get(), &signal, sizeof signal) == sizeof signal &&
        !on_signal(static_cast<int>(signal.ssi_signo))) {
      return;
    }
    const LinkDeaths deaths = kernel_.take_link_deaths(index_);
    supervisor.on_links_dead(deaths.some_missed ? supervised_.connections_count : deaths.count);
  }
}

bool Attachment::on_signal(int signal) {
  if (signal == SIGHUP) return false;
  if (const auto unused = check_unused(index_); !unused) {
    log::warning("not detached: {}", unused.error().what);
    return true;
  }
  if (const auto done = kernel_.disconnect(index_); !done) log::error("not detached: {}", done.error().what);
  return false;
}

bool Attachment::attached() const {
  const auto device = devices_.find(index_);
  return device && device->pid == pid_;
}

Result<bool> Attachment::give(Link link) {
  RETURN_IF_ERROR(kernel_.reconfigure({.index = index_,
                                       .size_bytes = std::nullopt,
                                       .timeouts = timeouts_,
                                       .backend = backend_of(servers_.export_name()),
                                       .sockets = {link.socket.get()}}));
  return was_taken(link.socket.get());
}

Result<void> Attachment::resize(uint64_t size_bytes) {
  return kernel_.reconfigure({.index = index_,
                              .size_bytes = size_bytes,
                              .timeouts = timeouts_,
                              .backend = backend_of(servers_.export_name()),
                              .sockets = {}});
}

Result<void> detach_device(uint32_t index, bool force) {
  if (!Devices().find(index))
    return fail(Errc::not_found, fmt::format("{} is not attached", device_path(index)));
  ASSIGN_OR_RETURN(KernelNbd kernel, KernelNbd::open());
  if (!force) {
    if (auto unused = check_unused(index); !unused)
      return fail(Errc::busy, unused.error().what + "; --force detaches it nevertheless and loses data");
  }
  // First, or it could bring the device back in the middle of its end.
  end_supervisor(index);
  RETURN_IF_ERROR(kernel.disconnect(index));
  return wait_until_free(index);
}

}  // namespace fdbnbd::attach
