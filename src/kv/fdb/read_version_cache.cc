#include "kv/fdb/read_version_cache.h"

#include <algorithm>

namespace fdbnbd::kv::fdb {

void ReadVersionCache::note(Version version, MonotonicTime asked_at) {
  const std::lock_guard lock(mutex_);
  if (version < version_) return;
  asked_at_ = version > version_ ? asked_at : std::max(asked_at_, asked_at);
  version_ = version;
}

void ReadVersionCache::refuse(Version version) {
  const std::lock_guard lock(mutex_);
  refused_ = std::max(refused_, version);
}

std::optional<Version> ReadVersionCache::fresh() const {
  const std::lock_guard lock(mutex_);
  if (version_ <= refused_ || clock_.now() - asked_at_ >= lifetime_) return std::nullopt;
  return version_;
}

}  // namespace fdbnbd::kv::fdb
