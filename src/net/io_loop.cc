#include "net/io_loop.h"

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <ctime>
#include <optional>
#include <span>
#include <system_error>
#include <utility>

#include "base/assert.h"

namespace fdbnbd::net {

namespace {

// How often queued work is run before descriptors are looked at again: enough for a request's few hops to
// share one system call, few enough to keep the sockets served.
constexpr int kRoundsPerWait = 8;
constexpr int kEventsPerWait = 128;

constexpr uint32_t kReadEvents = EPOLLIN | EPOLLRDHUP | EPOLLET;

timespec timespec_of(Duration duration) {
  const auto whole_seconds = std::chrono::floor<std::chrono::seconds>(duration);
  return {.tv_sec = whole_seconds.count(),
          .tv_nsec = std::chrono::nanoseconds(duration - whole_seconds).count()};
}

// For ever without a `timeout`. Pacing and back-off ask for less than the millisecond that epoll_wait counts
// in.
int wait_for_events(int epoll, std::span<epoll_event> events, const std::optional<Duration>& timeout) {
  const auto most = static_cast<int>(events.size());
  const timespec exact = timespec_of(timeout.value_or(Duration::zero()));
  const int count = ::epoll_pwait2(epoll, events.data(), most, timeout ? &exact : nullptr, nullptr);
  // Linux before 5.11 does not know it, and filters of system calls that are older refuse it.
  if (count >= 0 || (errno != ENOSYS && errno != EPERM)) return count;
  int timeout_ms = -1;
  if (timeout) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(*timeout).count();
    timeout_ms = static_cast<int>(std::min<int64_t>(left, INT_MAX));
  }
  return ::epoll_wait(epoll, events.data(), most, timeout_ms);
}

}  // namespace

IoLoop::IoLoop(const Clock& clock)
    : clock_(clock),
      epoll_(::epoll_create1(EPOLL_CLOEXEC)),
      wake_up_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  ASSERT(epoll_ && wake_up_);
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET;
  event.data.ptr = nullptr;
  ASSERT(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_up_.get(), &event) == 0);
}

IoLoop::~IoLoop() = default;

void IoLoop::post(Work& work) {
  if (runs_here()) {
    ready_.push(work);
    return;
  }
  // The descriptor is written under the lock: once the work ran, the loop may be gone.
  const std::lock_guard lock(mutex_);
  remote_.push(work);
  remote_pending_.store(true, std::memory_order_relaxed);
  if (asleep_) {
    asleep_ = false;
    const uint64_t one = 1;
    ASSERT(::write(wake_up_.get(), &one, sizeof one) == sizeof one);
  }
}

void IoLoop::take_remote() {
  if (!remote_pending_.load(std::memory_order_relaxed)) return;
  const std::lock_guard lock(mutex_);
  remote_pending_.store(false, std::memory_order_relaxed);
  WorkList remote = remote_.take();
  while (!remote.empty()) ready_.push(remote.pop());
}

void IoLoop::run_due_timers() {
  if (!timers_.next_due()) return;
  const auto now = clock_.now();
  while (TimerWork* timer = timers_.pop_due(now)) timer->run();
}

void IoLoop::run_ready() {
  for (int round = 0; round < kRoundsPerWait; ++round) {
    take_remote();
    if (ready_.empty()) return;
    WorkList batch = ready_.take();
    while (!batch.empty()) batch.pop().run();
  }
}

void IoLoop::wait() {
  std::optional<Duration> timeout = Duration::zero();
  bool sleeps = false;
  if (ready_.empty()) {
    timeout.reset();
    if (const auto due = timers_.next_due()) timeout = std::max(*due - clock_.now(), Duration::zero());
    const std::lock_guard lock(mutex_);
    if (!remote_.empty()) timeout = Duration::zero();
    sleeps = timeout != Duration::zero();
    asleep_ = sleeps;
  }
  std::array<epoll_event, kEventsPerWait> events;
  const int count = wait_for_events(epoll_.get(), events, timeout);
  ASSERT(count >= 0 || errno == EINTR);
  if (sleeps) {
    const std::lock_guard lock(mutex_);
    asleep_ = false;
  }
  // Only notes what happened: a waiter that ran here could free a watch that a later event points to.
  for (int i = 0; i < count; ++i) {
    const epoll_event& event = events[static_cast<size_t>(i)];
    if (event.data.ptr != nullptr) static_cast<IoWatch*>(event.data.ptr)->on_events(event.events);
  }
}

void IoLoop::run() {
  thread_.store(std::this_thread::get_id(), std::memory_order_relaxed);
  stop_work_.stopped = false;
  while (!stop_work_.stopped) {
    run_due_timers();
    run_ready();
    if (stop_work_.stopped) break;
    wait();
  }
}

void IoLoop::stop() {
  post(stop_work_);
}

void IoLoop::run_until_done(Task<void> task) {
  thread_.store(std::this_thread::get_id(), std::memory_order_relaxed);
  TaskScope scope;
  scope.spawn(std::move(task));
  while (scope.running_count() > 0) {
    run_due_timers();
    run_ready();
    if (scope.running_count() == 0) break;
    wait();
  }
}

Result<void> IoWatch::attach(IoLoop& loop, int fd) {
  ASSERT(loop_ == nullptr);
  epoll_event event{};
  event.events = kReadEvents;
  event.data.ptr = this;
  pollable_ = ::epoll_ctl(loop.epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0;
  if (!pollable_ && errno != EPERM) {
    return fail(Errc::io, "cannot watch a descriptor: " + std::generic_category().message(errno));
  }
  loop_ = &loop;
  fd_ = fd;
  peer_closed_ = false;
  write_wanted_ = false;
  for (Side& side : sides_) side.may_be_ready = true;
  return {};
}

void IoWatch::detach() {
  if (loop_ == nullptr) return;
  interrupt();
  if (pollable_) ::epoll_ctl(loop_->epoll_.get(), EPOLL_CTL_DEL, fd_, nullptr);
  loop_ = nullptr;
}

void IoWatch::would_block(Direction direction) {
  side(direction).may_be_ready = !pollable_;
}

bool IoWatch::start_wait(Direction direction, Work& waiter) {
  Side& waiting = side(direction);
  ASSERT(waiting.waiter == nullptr);
  if (waiting.may_be_ready || loop_ == nullptr) return false;
  waiting.waiter = &waiter;
  if (direction == Direction::write) want_write(true);
  return true;
}

void IoWatch::interrupt() {
  for (Side& side : sides_) wake(side);
}

void IoWatch::wake(Side& side) {
  if (Work* const waiter = std::exchange(side.waiter, nullptr)) loop_->post(*waiter);
}

void IoWatch::want_write(bool wanted) {
  // Asked for only while somebody waits: a Unix socket reports room at every read of its peer.
  if (write_wanted_ == wanted) return;
  write_wanted_ = wanted;
  epoll_event event{};
  event.events = kReadEvents | (wanted ? EPOLLOUT : 0u);
  event.data.ptr = this;
  ASSERT(::epoll_ctl(loop_->epoll_.get(), EPOLL_CTL_MOD, fd_, &event) == 0);
}

void IoWatch::on_events(uint32_t events) {
  const bool broken = (events & (EPOLLERR | EPOLLHUP)) != 0;
  if (broken || (events & EPOLLRDHUP) != 0) peer_closed_ = true;
  if (broken || (events & (EPOLLIN | EPOLLRDHUP)) != 0) {
    Side& reading = side(Direction::read);
    reading.may_be_ready = true;
    wake(reading);
  }
  if (broken || (events & EPOLLOUT) != 0) {
    Side& writing = side(Direction::write);
    writing.may_be_ready = true;
    want_write(false);
    wake(writing);
  }
}

IoThread::IoThread(std::string name) {
  thread_ = std::thread([this, name = std::move(name)] {
    ::pthread_setname_np(::pthread_self(), name.substr(0, 15).c_str());
    loop_.run();
  });
  // So that a post from here counts as remote even before the thread has begun.
  loop_.thread_.store(thread_.get_id(), std::memory_order_relaxed);
}

IoThread::~IoThread() {
  loop_.stop();
  thread_.join();
}

}  // namespace fdbnbd::net
