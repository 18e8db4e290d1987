#include "kv/rocks/group_batch.h"

#include <memory>

#include "base/assert.h"
#include "kv/rocks/rocks_errors.h"

namespace fdbnbd::kv {

namespace {

// A range with up to so many rows is cleared row by row: range tombstones slow every later read down. To
// count bulk rows costs a read of each value.
constexpr size_t kMaxRowDeletes[kFamiliesCount] = {256, 64};

rocksdb::Slice slice(std::string_view text) {
  return {text.data(), text.size()};
}

}  // namespace

void GroupBatch::expect(const MutationList& mutations) {
  for (size_t i = 0; i < mutations.size(); ++i) {
    const Mutation mutation = mutations[i];
    if (mutation.kind == MutationKind::clear_range) {
      for (const RangePart& part : store_.router().split({mutation.key, mutation.value}))
        looks_back_[static_cast<size_t>(part.family)] = true;
    } else if (mutation.kind == MutationKind::bit_or || mutation.kind == MutationKind::bit_and) {
      looks_back_[static_cast<size_t>(store_.router().family_of(mutation.key))] = true;
    }
  }
}

Result<void> GroupBatch::add(const MutationList& mutations) {
  batch_.SetSavePoint();
  for (size_t i = 0; i < mutations.size(); ++i) {
    Result<void> added = add_one(mutations[i]);
    if (!added) {
      const rocksdb::Status undone = batch_.RollbackToSavePoint();
      ASSERT(undone.ok());
      return added;
    }
  }
  const rocksdb::Status kept = batch_.PopSavePoint();
  ASSERT(kept.ok());
  return {};
}

Result<void> GroupBatch::add_one(const Mutation& mutation) {
  if (mutation.kind == MutationKind::clear_range) {
    for (const RangePart& part : store_.router().split({mutation.key, mutation.value})) clear_part(part);
    return {};
  }
  const Family family = store_.router().family_of(mutation.key);
  if (mutation.kind == MutationKind::set) {
    put(mutation.key, family, mutation.value);
  } else if (mutation.kind == MutationKind::clear) {
    remove(mutation.key, family);
  } else {
    ASSIGN_OR_RETURN(const std::optional<std::string> old_value, read(mutation.key, family));
    put(mutation.key, family, apply_bits(mutation.kind, old_value, mutation.value));
  }
  return {};
}

void GroupBatch::put(std::string_view key, Family family, std::string_view value) {
  const rocksdb::Status put = batch_.Put(store_.family(family), slice(key), slice(value));
  ASSERT(put.ok());
  if (family == Family::bulk) bulk_bytes_ += key.size() + value.size();
  if (looks_back_[static_cast<size_t>(family)]) overlay_.insert_or_assign(std::string(key), value);
}

void GroupBatch::remove(std::string_view key, Family family) {
  const rocksdb::Status removed = batch_.Delete(store_.family(family), slice(key));
  ASSERT(removed.ok());
  if (looks_back_[static_cast<size_t>(family)]) overlay_.insert_or_assign(std::string(key), std::nullopt);
}

Result<std::optional<std::string>> GroupBatch::read(std::string_view key, Family family) {
  if (const auto known = overlay_.find(key); known != overlay_.end()) return known->second;
  for (const auto& [begin, end] : cleared_)
    if (begin <= key && key < end) return std::nullopt;
  std::string value;
  const rocksdb::Status status =
      store_.db().Get(rocksdb::ReadOptions(), store_.family(family), slice(key), &value);
  if (status.ok()) return value;
  if (status.IsNotFound()) return std::nullopt;
  return tl::unexpected(error_of(status, "reading a row to change it"));
}

void GroupBatch::clear_part(const RangePart& part) {
  const size_t limit = kMaxRowDeletes[static_cast<size_t>(part.family)];
  std::vector<std::string> found;
  const auto overlay_begin = overlay_.lower_bound(part.begin);
  const auto overlay_end = overlay_.lower_bound(part.end);
  for (auto row = overlay_begin; row != overlay_end && found.size() <= limit; ++row)
    if (row->second) found.push_back(row->first);

  rocksdb::ReadOptions options;
  const rocksdb::Slice upper_bound = part.end;
  options.iterate_upper_bound = &upper_bound;
  const std::unique_ptr<rocksdb::Iterator> row(store_.db().NewIterator(options, store_.family(part.family)));
  for (row->Seek(part.begin); row->Valid() && found.size() <= limit; row->Next())
    found.push_back(row->key().ToString());

  // Rows that cannot be read can be cleared all the same.
  if (found.size() <= limit && row->status().ok()) {
    for (const std::string& key : found) {
      const rocksdb::Status removed = batch_.Delete(store_.family(part.family), key);
      ASSERT(removed.ok());
    }
  } else {
    const rocksdb::Status removed = batch_.DeleteRange(store_.family(part.family), part.begin, part.end);
    ASSERT(removed.ok());
    if (part.family == Family::bulk) bulk_tombstones_.push_back(part);
  }
  overlay_.erase(overlay_begin, overlay_end);
  cleared_.emplace_back(part.begin, part.end);
}

}  // namespace fdbnbd::kv
