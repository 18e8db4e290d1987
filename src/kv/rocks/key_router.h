#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kv/engine.h"

namespace fdbnbd::kv {

// Where a row is stored.
enum class Family : uint8_t { meta, bulk };
inline constexpr size_t kFamiliesCount = 2;

// A part of a range that lies in one family.
struct RangePart {
  Family family;
  std::string begin;
  std::string end;
};

// Tells by the key alone in which family a row is. Immutable, any thread.
class KeyRouter {
 public:
  // Keys that have one of the bytes of `bulk_tags` behind `prefix` are bulk.
  KeyRouter(std::string prefix, std::string_view bulk_tags);

  Family family_of(std::string_view key) const;
  // In the order of the keys, without empty parts.
  std::vector<RangePart> split(KeyRange range) const;

 private:
  std::string prefix_;
  bool is_bulk_[256] = {};
  // Where the family changes, in order: bulk from each even entry, meta from each odd one.
  std::vector<std::string> changes_;
};

}  // namespace fdbnbd::kv
