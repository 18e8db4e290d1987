#pragma once

#include <rocksdb/write_batch.h>

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "kv/mutations.h"
#include "kv/rocks/rocks_store.h"

namespace fdbnbd::kv {

// Turns the mutations of several transactions into one batch of RocksDB. What depends on earlier rows (bit
// operations, range clears) sees the store and what stands before it in the batch. The mutations must live as
// long as this.
class GroupBatch {
 public:
  explicit GroupBatch(RocksStore& store) : store_(store) {}

  // Tells that `mutations` will be added; before the first add().
  void expect(const MutationList& mutations);

  // Appends all of `mutations`, which were expected. On failure (the store could not be read) the batch is as
  // it was before the call, and nothing may be added any more.
  Result<void> add(const MutationList& mutations);

  rocksdb::WriteBatch& batch() { return batch_; }
  // Bytes of bulk rows that the batch stores.
  uint64_t bulk_bytes() const { return bulk_bytes_; }
  // The ranges of bulk rows that are cleared by range tombstones.
  const std::vector<RangePart>& bulk_tombstones() const { return bulk_tombstones_; }

 private:
  Result<void> add_one(const Mutation& mutation);
  void clear_part(const RangePart& part);
  Result<std::optional<std::string>> read(std::string_view key, Family family);
  void put(std::string_view key, Family family, std::string_view value);
  void remove(std::string_view key, Family family);

  RocksStore& store_;
  rocksdb::WriteBatch batch_;
  uint64_t bulk_bytes_ = 0;
  // The families of which something in the batch looks back at what stands before it.
  bool looks_back_[kFamiliesCount] = {};
  // What the batch changed so far in them.
  std::map<std::string, std::optional<std::string>, std::less<>> overlay_;
  std::vector<std::pair<std::string, std::string>> cleared_;
  std::vector<RangePart> bulk_tombstones_;
};

}  // namespace fdbnbd::kv
