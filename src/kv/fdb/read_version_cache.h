#pragma once

#include <mutex>
#include <optional>

#include "base/clock.h"
#include "kv/engine.h"

namespace fdbnbd::kv::fdb {

// The newest version at which this engine may read what it committed itself, as long as it is fresh: so a
// bulk read need not ask for one. FoundationDB keeps about five seconds. Any thread.
class ReadVersionCache {
 public:
  ReadVersionCache(const Clock& clock, Duration lifetime) : clock_(clock), lifetime_(lifetime) {}

  // `version` was given out or committed at some time after `asked_at`.
  void note(Version version, MonotonicTime asked_at);
  // The store refused to read at `version`: it and older ones are not given out again.
  void refuse(Version version);
  // No older than any version noted before the call.
  std::optional<Version> fresh() const;

 private:
  const Clock& clock_;
  const Duration lifetime_;
  mutable std::mutex mutex_;
  // Guarded by mutex_.
  Version version_ = 0;
  Version refused_ = 0;
  MonotonicTime asked_at_{};
};

}  // namespace fdbnbd::kv::fdb
