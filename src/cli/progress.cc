#include "cli/progress.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <utility>

#include "base/units.h"
#include "cli/output.h"

namespace fdbnbd::cli {

namespace {

constexpr int kBarWidth = 30;
constexpr auto kDrawInterval = std::chrono::milliseconds(200);

std::atomic<bool> progress_wanted{false};
std::atomic<bool> was_interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free);

void on_signal(int signal) {
  (signal == SIGUSR1 ? progress_wanted : was_interrupted).store(true);
}

void watch(int signal, int flags) {
  struct sigaction action{};
  action.sa_handler = on_signal;
  action.sa_flags = flags;
  sigaction(signal, &action, nullptr);
}

}  // namespace

void watch_progress_signals() {
  watch(SIGUSR1, SA_RESTART);
}

void watch_interrupts() {
  // A second one ends the program at once. Without SA_RESTART: a read of a pipe that brings nothing ends.
  watch(SIGINT, SA_RESETHAND);
  watch(SIGTERM, SA_RESETHAND);
}

bool interrupted() {
  return was_interrupted.load();
}

std::string format_bar(uint64_t done_bytes, uint64_t total_bytes) {
  const double share =
      total_bytes == 0 ? 0
                       : std::min(1.0, static_cast<double>(done_bytes) / static_cast<double>(total_bytes));
  const auto filled = static_cast<size_t>(share * kBarWidth);
  return fmt::format("[{}{}] {:5.1f}%", std::string(filled, '#'), std::string(kBarWidth - filled, '.'),
                     share * 100);
}

ProgressDisplay::ProgressDisplay(std::string title, bool bar_enabled, const Clock& clock)
    : title_(std::move(title)), bar_enabled_(bar_enabled), clock_(clock), started_(clock.now()) {}

ProgressDisplay::~ProgressDisplay() {
  finish();
}

void ProgressDisplay::update(uint64_t done_bytes, uint64_t total_bytes) {
  done_bytes_ = done_bytes;
  total_bytes_ = total_bytes;
  const MonotonicTime now = clock_.now();
  if (progress_wanted.exchange(false)) {
    finish();
    print_error(fmt::format("{}: {}\n", title_, describe(done_bytes, total_bytes, now - started_)));
  }
  if (!bar_enabled_ || (last_drawn_ && now - *last_drawn_ < kDrawInterval)) return;
  last_drawn_ = now;
  print_error(fmt::format("\r\033[K{} {}{}", title_,
                          total_bytes == 0 ? "" : format_bar(done_bytes, total_bytes) + " ",
                          describe(done_bytes, total_bytes, now - started_)));
}

void ProgressDisplay::finish() {
  if (!last_drawn_) return;
  last_drawn_.reset();
  print_error("\r\033[K");
}

std::string ProgressDisplay::describe(uint64_t done_bytes, uint64_t total_bytes, Duration elapsed) const {
  const double seconds = std::chrono::duration<double>(elapsed).count();
  const auto rate = static_cast<uint64_t>(seconds > 0 ? static_cast<double>(done_bytes) / seconds : 0);
  if (total_bytes == 0) return fmt::format("{}, {}/s", format_size(done_bytes), format_size(rate));
  return fmt::format("{} of {}, {}/s", format_size(done_bytes), format_size(total_bytes), format_size(rate));
}

}  // namespace fdbnbd::cli
