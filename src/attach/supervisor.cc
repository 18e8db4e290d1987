#include "attach/supervisor.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/limits.h"
#include "base/log.h"
#include "base/units.h"

namespace fdbnbd::attach {

Supervisor::Supervisor(Options options, Device& device, Servers& servers, const Clock& clock)
    : options_(std::move(options)),
      device_(device),
      servers_(servers),
      clock_(clock),
      size_bytes_(options_.terms.size_bytes),
      reconnect_delay_(limits::kMinReconnectDelay),
      next_reconnect_(clock.now()),
      next_look_(clock.now() + limits::kDeviceSizePoll) {}

void Supervisor::on_links_dead(uint32_t count) {
  if (count == 0) return;
  if (dead_count_ == 0) {
    reconnect_delay_ = limits::kMinReconnectDelay;
    next_reconnect_ = std::max(next_reconnect_, clock_.now());
    outage_told_ = false;
  }
  dead_count_ =
      std::min(options_.connections_count, dead_count_ + std::min(count, options_.connections_count));
}

Duration Supervisor::step() {
  if (!device_.attached()) {
    over_ = true;
    return Duration::zero();
  }
  if (dead_count_ > 0 && clock_.now() >= next_reconnect_) reconnect();
  if (dead_count_ == 0 && clock_.now() >= next_look_) {
    // A server that does not answer now will be missed soon enough.
    if (const auto terms = servers_.look()) follow_size(terms->size_bytes);
    next_look_ = clock_.now() + limits::kDeviceSizePoll;
  }
  const MonotonicTime next = dead_count_ > 0 ? next_reconnect_ : next_look_;
  const Duration wait = std::max(next - clock_.now(), Duration::zero());
  return std::min<Duration>(wait, limits::kDeviceStatePoll);
}

void Supervisor::reconnect() {
  auto link = servers_.open();
  if (!link) return put_off_reconnect(link.error());
  if (const auto accepted = accept(link->terms); !accepted) return put_off_reconnect(accepted.error());
  const uint64_t size_bytes = link->terms.size_bytes;
  const auto taken = device_.give(std::move(*link));
  if (!taken) return put_off_reconnect(taken.error());
  dead_count_ = *taken ? dead_count_ - 1 : 0;
  reconnect_delay_ = limits::kMinReconnectDelay;
  next_reconnect_ = clock_.now() + limits::kReconnectSpacing;
  if (*taken) log::info("{}: connected again to {}", options_.device, servers_.current_name());
  follow_size(size_bytes);
}

void Supervisor::put_off_reconnect(const Error& error) {
  if (!std::exchange(outage_told_, true))
    log::warning("{} waits for its server: {}", options_.device, error.what);
  next_reconnect_ = clock_.now() + reconnect_delay_;
  reconnect_delay_ = std::min<Duration>(2 * reconnect_delay_, limits::kMaxReconnectDelay);
}

void Supervisor::follow_size(uint64_t size_bytes) {
  if (size_bytes == size_bytes_) return;
  const std::string before = format_size(std::exchange(size_bytes_, size_bytes));
  if (const auto resized = device_.resize(size_bytes)) {
    log::info("{} has {} now, {} before", options_.device, format_size(size_bytes), before);
  } else {
    log::warning("{} keeps its size of {}: {}", options_.device, before, resized.error().what);
  }
}

Result<void> Supervisor::accept(const proto::ExportTerms& terms) const {
  // The kernel keeps the flags of the first connection, and acts on them.
  if ((terms.flags & proto::kFlagReadOnly) != 0 && (options_.terms.flags & proto::kFlagReadOnly) == 0) {
    return fail(Errc::read_only, fmt::format("{} lets nobody write to \"{}\" any more",
                                             servers_.current_name(), servers_.export_name()));
  }
  constexpr uint16_t kNeeded = proto::kFlagSendFlush | proto::kFlagSendFua | proto::kFlagSendTrim |
                               proto::kFlagSendWriteZeroes | proto::kFlagCanMultiConn;
  const auto missing = static_cast<uint16_t>(options_.terms.flags & kNeeded & ~terms.flags);
  if (missing == 0) return {};
  return fail(Errc::not_supported,
              fmt::format("{} offers less than the server before it (transmission flags {:#x} are missing)",
                          servers_.current_name(), missing));
}

}  // namespace fdbnbd::attach
