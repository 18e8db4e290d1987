#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/clock.h"

namespace fdbnbd::cli {

// Makes SIGUSR1 ask for a line of progress, and SIGINT and SIGTERM ask for an end where a verb has to tidy up
// after itself. Before threads start.
void watch_progress_signals();
void watch_interrupts();

// Whether SIGINT or SIGTERM came since watch_interrupts().
bool interrupted();

// How far long work is, on stderr: a bar where that is a terminal, and a line at each SIGUSR1.
class ProgressDisplay {
 public:
  // `title` says what is being done: "Importing disk.img".
  ProgressDisplay(std::string title, bool bar_enabled, const Clock& clock = system_clock());
  ~ProgressDisplay();
  ProgressDisplay(const ProgressDisplay&) = delete;
  ProgressDisplay& operator=(const ProgressDisplay&) = delete;

  // total_bytes 0: not known.
  void update(uint64_t done_bytes, uint64_t total_bytes);

  // The same as last time: for who waits, and was woken by a signal.
  void update_again() { update(done_bytes_, total_bytes_); }

  // Takes the bar away; before anything else is written to stderr.
  void finish();

 private:
  std::string describe(uint64_t done_bytes, uint64_t total_bytes, Duration elapsed) const;

  const std::string title_;
  const bool bar_enabled_;
  const Clock& clock_;
  const MonotonicTime started_;
  std::optional<MonotonicTime> last_drawn_;
  uint64_t done_bytes_ = 0;
  uint64_t total_bytes_ = 0;
};

// "[#####.....]  50.0%".
std::string format_bar(uint64_t done_bytes, uint64_t total_bytes);

}  // namespace fdbnbd::cli
