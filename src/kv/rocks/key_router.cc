#include "kv/rocks/key_router.h"

#include <algorithm>
#include <utility>

namespace fdbnbd::kv {

namespace {

// The first key behind all that begin with `prefix`; empty where there is none.
std::string behind_prefix(std::string prefix) {
  while (!prefix.empty() && prefix.back() == '\xff') prefix.pop_back();
  if (!prefix.empty()) ++prefix.back();
  return prefix;
}

}  // namespace

KeyRouter::KeyRouter(std::string prefix, std::string_view bulk_tags) : prefix_(std::move(prefix)) {
  for (const char tag : bulk_tags) is_bulk_[static_cast<uint8_t>(tag)] = true;
  for (int tag = 0; tag < 256; ++tag) {
    if (!is_bulk_[tag]) continue;
    std::string begin = prefix_ + static_cast<char>(tag);
    std::string end = behind_prefix(begin);
    if (!changes_.empty() && changes_.back() == begin) {
      changes_.back() = std::move(end);
    } else {
      changes_.push_back(std::move(begin));
      changes_.push_back(std::move(end));
    }
  }
  // Bulk up to the end of all keys.
  if (!changes_.empty() && changes_.back().empty()) changes_.pop_back();
}

Family KeyRouter::family_of(std::string_view key) const {
  const bool bulk = key.size() > prefix_.size() && key.starts_with(prefix_) &&
                    is_bulk_[static_cast<uint8_t>(key[prefix_.size()])];
  return bulk ? Family::bulk : Family::meta;
}

std::vector<RangePart> KeyRouter::split(KeyRange range) const {
  std::vector<RangePart> parts;
  std::string_view begin = range.begin;
  auto change = std::upper_bound(changes_.begin(), changes_.end(), begin);
  while (begin < range.end) {
    const bool bulk = (change - changes_.begin()) % 2 == 1;
    const std::string_view end =
        change == changes_.end() ? range.end : std::min<std::string_view>(range.end, *change);
    parts.push_back({bulk ? Family::bulk : Family::meta, std::string(begin), std::string(end)});
    begin = end;
    if (change != changes_.end()) ++change;
  }
  return parts;
}

}  // namespace fdbnbd::kv
