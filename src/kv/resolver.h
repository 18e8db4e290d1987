#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <string>

#include "kv/engine.h"

namespace fdbnbd::kv {

// Remembers which keys changed at which version, so that a transaction can be refused when what it read
// changed before it commits. Bounded: what is older than oldest_version() is forgotten, and a transaction
// that read before it cannot be judged any more. One thread at a time.
class Resolver {
 public:
  // At most about `max_entries` separate ranges are remembered.
  explicit Resolver(size_t max_entries);

  // The keys of `range` changed at `version`, which is no less than any version before.
  void record(KeyRange range, Version version);

  // Whether a key of `range` changed after `version`, which is at least oldest_version().
  bool changed_since(KeyRange range, Version version) const;

  Version oldest_version() const { return oldest_version_; }
  // Forgets the changes at versions up to `version`.
  void forget_until(Version version);

 private:
  // A step function: the keys from one entry up to the next changed last at the entry's version; 0 where they
  // did not change since oldest_version_. The first entry is the empty key.
  std::map<std::string, Version, std::less<>> last_changes_;
  const size_t max_entries_;
  Version oldest_version_ = 0;
};

}  // namespace fdbnbd::kv
