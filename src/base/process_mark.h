#pragma once

#include <cstdint>

namespace fdbnbd {

// A process of some host, as another process of that host can find it again.
struct ProcessMark {
  uint64_t host = 0;  // this start of the operating system, and its name space of process ids; 0: unknown
  uint32_t pid = 0;
  uint64_t started = 0;  // in clock ticks since the host started: tells processes of one id apart

  friend bool operator==(const ProcessMark&, const ProcessMark&) = default;
};

ProcessMark this_process();

// Whether that process is surely gone. False for processes of other hosts, whose state cannot be known here.
bool has_ended(const ProcessMark& process);

}  // namespace fdbnbd
