#include "net/signals.h"

#include <pthread.h>
#include <sys/signalfd.h>

#include <csignal>
#include <utility>

#include "base/assert.h"

namespace fdbnbd::net {

namespace {

sigset_t make_set(std::initializer_list<int> signals) {
  sigset_t set;
  ::sigemptyset(&set);
  for (const int signal : signals) ::sigaddset(&set, signal);
  return set;
}

}  // namespace

void block_signals(std::initializer_list<int> signals) {
  const sigset_t set = make_set(signals);
  ASSERT(::pthread_sigmask(SIG_BLOCK, &set, nullptr) == 0);
  ::signal(SIGPIPE, SIG_IGN);
}

SignalWatch::SignalWatch(IoLoop& loop, std::initializer_list<int> signals,
                         UniqueFunction<void(int)> on_signal)
    : loop_(loop), on_signal_(std::move(on_signal)) {
  const sigset_t set = make_set(signals);
  fd_ = OwnedFd(::signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC));
  ASSERT(fd_);
  ASSERT(watch_.attach(loop_, fd_.get()));
  tasks_.spawn(watch());
}

Task<void> SignalWatch::stop() {
  stopped_ = true;
  watch_.interrupt();
  co_await tasks_.join();
}

Task<void> SignalWatch::watch() {
  while (!stopped_) {
    signalfd_siginfo info{};
    if (::read(fd_.get(), &info, sizeof info) == sizeof info) {
      on_signal_(static_cast<int>(info.ssi_signo));
      continue;
    }
    watch_.would_block(Direction::read);
    co_await watch_.ready(Direction::read);
  }
}

}  // namespace fdbnbd::net
