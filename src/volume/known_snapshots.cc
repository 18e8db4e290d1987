#include "volume/known_snapshots.h"

#include <utility>

#include "base/limits.h"

namespace fdbnbd::volume {

bool KnownSnapshots::is_worth_learning(VolumeId volume, LayerId top) const {
  const auto found = volumes_.find(volume);
  if (found == volumes_.end()) return true;
  return found->second.top && *found->second.top != top;
}

bool KnownSnapshots::lacks(VolumeId volume, LayerId top, std::string_view name) const {
  const auto found = volumes_.find(volume);
  return found != volumes_.end() && found->second.top == top && !found->second.names.contains(name);
}

void KnownSnapshots::learn(VolumeId volume, LayerId top, NameSet names) {
  forget(volume);
  if (names.size() > limits::kMaxKnownSnapshots) return;
  // All of it can be read again.
  if (names_count_ + names.size() > limits::kMaxKnownSnapshots) {
    volumes_.clear();
    names_count_ = 0;
  }
  names_count_ += names.size();
  volumes_.insert_or_assign(volume, Known{top, std::move(names)});
}

void KnownSnapshots::give_up(VolumeId volume) {
  forget(volume);
  volumes_[volume] = {};
}

void KnownSnapshots::add(VolumeId volume, LayerId old_top, LayerId new_top, std::string name) {
  const auto found = volumes_.find(volume);
  if (found == volumes_.end() || !found->second.top) return;
  if (*found->second.top != old_top || names_count_ == limits::kMaxKnownSnapshots) return forget(volume);
  found->second.top = new_top;
  if (found->second.names.insert(std::move(name)).second) ++names_count_;
}

void KnownSnapshots::forget(VolumeId volume) {
  const auto found = volumes_.find(volume);
  if (found == volumes_.end()) return;
  names_count_ -= found->second.names.size();
  volumes_.erase(found);
}

}  // namespace fdbnbd::volume
