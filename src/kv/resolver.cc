#include "kv/resolver.h"

#include <algorithm>
#include <iterator>
#include <vector>

#include "base/assert.h"

namespace fdbnbd::kv {

Resolver::Resolver(size_t max_entries) : last_changes_{{std::string(), 0}}, max_entries_(max_entries) {
  ASSERT(max_entries >= 4);
}

void Resolver::record(KeyRange range, Version version) {
  if (range.begin >= range.end) return;
  auto end = last_changes_.lower_bound(range.end);
  if (end == last_changes_.end() || end->first != range.end)
    end = last_changes_.emplace_hint(end, std::string(range.end), std::prev(end)->second);
  auto begin = last_changes_.lower_bound(range.begin);
  if (begin != last_changes_.end() && begin->first == range.begin) {
    begin->second = version;
  } else {
    begin = last_changes_.emplace_hint(begin, std::string(range.begin), version);
  }
  last_changes_.erase(std::next(begin), end);

  if (last_changes_.size() <= max_entries_) return;
  // The older half goes, so that the cost of this pass is spread over as many records.
  std::vector<Version> versions;
  for (const auto& [key, changed] : last_changes_)
    if (changed > 0) versions.push_back(changed);
  const auto middle = versions.begin() + static_cast<std::ptrdiff_t>(versions.size() / 2);
  std::nth_element(versions.begin(), middle, versions.end());
  forget_until(*middle);
}

bool Resolver::changed_since(KeyRange range, Version version) const {
  ASSERT(version >= oldest_version_);
  if (range.begin >= range.end) return false;
  for (auto entry = std::prev(last_changes_.upper_bound(range.begin));
       entry != last_changes_.end() && entry->first < range.end; ++entry)
    if (entry->second > version) return true;
  return false;
}

void Resolver::forget_until(Version version) {
  if (version <= oldest_version_) return;
  oldest_version_ = version;
  auto previous = last_changes_.begin();
  if (previous->second <= version) previous->second = 0;
  for (auto entry = std::next(previous); entry != last_changes_.end();) {
    if (entry->second <= version) entry->second = 0;
    if (entry->second == previous->second) {
      entry = last_changes_.erase(entry);
    } else {
      previous = entry++;
    }
  }
}

}  // namespace fdbnbd::kv
