#include "kv/memory/memory_disk.h"

#include <algorithm>
#include <iterator>

#include "base/assert.h"

namespace fdbnbd::kv {

namespace {

// Versions grow by more than one, so that nobody comes to rely on dense ones.
constexpr uint64_t kMaxVersionStep = 16;

uint64_t row_bytes(std::string_view key, const SharedValue& value) {
  return value ? key.size() + value->size() : 0;
}

}  // namespace

std::shared_ptr<MemoryDisk> make_memory_disk() {
  return std::make_shared<MemoryDisk>();
}

Result<void> MemoryDisk::open(const MemoryOptions& options) {
  const std::lock_guard lock(mutex_);
  const bool shared = options.capabilities.shared_between_hosts;
  if (engines_count_ > 0 && !(shared_ && shared))
    return fail(Errc::busy, "the store in memory is open already");
  if (engines_count_++ > 0) return {};
  shared_ = shared;
  read_window_versions_ = options.read_window_versions;
  history_bytes_limit_ = options.history_bytes;
  capacity_bytes_ = options.capacity_bytes;
  remembers_unsynced_ = options.can_lose_power;
  if (!remembers_unsynced_) unsynced_.clear();
  random_ = Random(options.seed);
  // A store that is opened anew knows nothing of the transactions before.
  if (newest_version_ == 0) newest_version_ = 1;
  while (!history_.empty()) forget_oldest_replaced();
  oldest_version_ = newest_version_;
  resolver_ = std::make_unique<Resolver>(limits::kMaxResolverEntries);
  resolver_->forget_until(newest_version_);
  return {};
}

void MemoryDisk::close() {
  const std::lock_guard lock(mutex_);
  ASSERT(engines_count_ > 0);
  if (--engines_count_ == 0) late_commits_.clear();
}

Version MemoryDisk::newest_version() const {
  const std::lock_guard lock(mutex_);
  return newest_version_;
}

uint64_t MemoryDisk::stored_bytes() const {
  const std::lock_guard lock(mutex_);
  return stored_bytes_;
}

Result<void> MemoryDisk::check_readable(Version version) const {
  if (version == kNewest) return {};
  if (version < oldest_version_) return fail(Errc::unavailable, "the read version is too old");
  if (version > newest_version_) return fail(Errc::unavailable, "the read version is not reached yet");
  return {};
}

const SharedValue* MemoryDisk::visible(const Row& row, Version version) {
  if (row.version <= version) return row.value ? &row.value : nullptr;
  for (auto old = row.older.rbegin(); old != row.older.rend(); ++old)
    if (old->version <= version) return old->value ? &old->value : nullptr;
  return nullptr;
}

Result<SharedValue> MemoryDisk::get(std::string_view key, Version version) const {
  const std::lock_guard lock(mutex_);
  RETURN_IF_ERROR(check_readable(version));
  const auto row = rows_.find(key);
  if (row == rows_.end()) return SharedValue();
  const SharedValue* const value = visible(row->second, version);
  return value == nullptr ? SharedValue() : *value;
}

Result<std::vector<SharedRow>> MemoryDisk::get_range(KeyRange range, size_t rows_limit, bool reverse,
                                                     Version version) const {
  const std::lock_guard lock(mutex_);
  RETURN_IF_ERROR(check_readable(version));
  std::vector<SharedRow> found;
  if (range.begin >= range.end) return found;
  auto row = rows_.lower_bound(reverse ? range.end : range.begin);
  while (found.size() < rows_limit) {
    if (reverse) {
      if (row == rows_.begin()) break;
      --row;
      if (row->first < range.begin) break;
    } else if (row == rows_.end() || row->first >= range.end) {
      break;
    }
    if (const SharedValue* const value = visible(row->second, version)) found.push_back({row->first, *value});
    if (!reverse) ++row;
  }
  return found;
}

Result<Version> MemoryDisk::commit(const CommitRequest& request) {
  const std::lock_guard lock(mutex_);
  run_due_late_commits(false);
  return commit_now(request);
}

void MemoryDisk::commit_late(CommitRequest request, uint64_t commits_count) {
  const std::lock_guard lock(mutex_);
  // Its place in the order of commits is open, its read version is not.
  if (!request.read_version) request.read_version = newest_version_;
  late_commits_.push_back({std::move(request), commits_count_ + commits_count});
}

void MemoryDisk::release_late_commits() {
  const std::lock_guard lock(mutex_);
  run_due_late_commits(true);
}

void MemoryDisk::run_due_late_commits(bool all) {
  for (size_t i = 0; i < late_commits_.size();) {
    if (!all && late_commits_[i].due_at_commit > commits_count_) {
      ++i;
      continue;
    }
    const CommitRequest request = std::move(late_commits_[i].request);
    late_commits_.erase(late_commits_.begin() + static_cast<std::ptrdiff_t>(i));
    // Nobody waits for the outcome.
    static_cast<void>(commit_now(request));
  }
}

Result<Version> MemoryDisk::commit_now(const CommitRequest& request) {
  ++commits_count_;
  if (request.read_version && !request.read_conflicts.empty()) {
    if (*request.read_version < std::max(oldest_version_, resolver_->oldest_version()))
      return fail(Errc::unavailable, "the read version is too old to commit at");
    if (*request.read_version > newest_version_)
      return fail(Errc::unavailable, "the read version is not reached yet");
    for (const auto& [begin, end] : request.read_conflicts)
      if (resolver_->changed_since({begin, end}, *request.read_version))
        return fail(Errc::conflict, "a key that was read changed before the commit");
  }
  if (capacity_bytes_ > 0) {
    uint64_t added_bytes = 0;
    for (size_t i = 0; i < request.mutations.size(); ++i) {
      const Mutation mutation = request.mutations[i];
      if (mutation.kind == MutationKind::set) added_bytes += mutation.key.size() + mutation.value.size();
    }
    if (added_bytes > 0 && stored_bytes_ + added_bytes > capacity_bytes_)
      return fail(Errc::no_space, "the store in memory is full");
  }
  newest_version_ += 1 + static_cast<Version>(random_.below(kMaxVersionStep));
  if (remembers_unsynced_) unsynced_.emplace_back();
  apply(request.mutations, newest_version_);
  advance_window();
  return newest_version_;
}

void MemoryDisk::apply(const MutationList& mutations, Version version) {
  for (size_t i = 0; i < mutations.size(); ++i) {
    const Mutation mutation = mutations[i];
    if (mutation.kind == MutationKind::clear_range) {
      const KeyRange range{mutation.key, mutation.value};
      clear_range(range, version);
      if (mutation.conflicts) resolver_->record(range, version);
      continue;
    }
    SharedValue value;
    if (mutation.kind == MutationKind::set) {
      value = std::make_shared<const std::string>(mutation.value);
    } else if (mutation.kind != MutationKind::clear) {
      const auto row = rows_.find(mutation.key);
      std::optional<std::string_view> old_value;
      if (row != rows_.end() && row->second.value) old_value = *row->second.value;
      value = std::make_shared<const std::string>(apply_bits(mutation.kind, old_value, mutation.value));
    }
    put(mutation.key, std::move(value), version);
    if (mutation.conflicts) resolver_->record({mutation.key, key_after(mutation.key)}, version);
  }
}

void MemoryDisk::put(std::string_view key, SharedValue value, Version version) {
  auto row = rows_.find(key);
  if (row == rows_.end()) {
    if (!value) return;
    row = rows_.emplace(std::string(key), Row()).first;
  }
  Row& content = row->second;
  stored_bytes_ += row_bytes(key, value);
  stored_bytes_ -= row_bytes(key, content.value);
  if (content.version == version) {  // the same commit touched it before
    content.value = std::move(value);
    return;
  }
  if (remembers_unsynced_) unsynced_.back().push_back({row->first, content.value});
  const uint64_t replaced_bytes = row_bytes(key, content.value);
  if (content.version > 0) content.older.push_back({content.version, std::move(content.value)});
  content.version = version;
  content.value = std::move(value);
  history_.push_back({version, row, replaced_bytes});
  history_bytes_ += replaced_bytes;
}

void MemoryDisk::clear_range(KeyRange range, Version version) {
  if (range.begin >= range.end) return;
  for (auto row = rows_.lower_bound(range.begin); row != rows_.end() && row->first < range.end; ++row)
    if (row->second.value) put(row->first, nullptr, version);
}

void MemoryDisk::advance_window() {
  Version oldest = newest_version_ - read_window_versions_;
  while (!history_.empty() && (history_.front().version <= oldest || history_bytes_ > history_bytes_limit_)) {
    oldest = std::max(oldest, history_.front().version);
    forget_oldest_replaced();
  }
  if (oldest <= oldest_version_) return;
  oldest_version_ = oldest;
  resolver_->forget_until(oldest);
}

// Afterwards versions before the record's cannot be read any more.
void MemoryDisk::forget_oldest_replaced() {
  const Replaced record = history_.front();
  history_.pop_front();
  history_bytes_ -= record.bytes;
  Row& row = record.row->second;
  const auto kept = std::find_if(row.older.begin(), row.older.end(),
                                 [&](const Old& old) { return old.version >= record.version; });
  row.older.erase(row.older.begin(), kept);
  if (!row.value && row.version == record.version) rows_.erase(record.row);
}

void MemoryDisk::sync() {
  const std::lock_guard lock(mutex_);
  unsynced_.clear();
}

size_t MemoryDisk::unsynced_commits_count() const {
  const std::lock_guard lock(mutex_);
  return unsynced_.size();
}

void MemoryDisk::lose_unsynced_commits(size_t kept_count) {
  const std::lock_guard lock(mutex_);
  ASSERT(kept_count <= unsynced_.size());
  remembers_unsynced_ = false;
  while (unsynced_.size() > kept_count) {
    newest_version_ += 1;
    for (Undo& undo : unsynced_.back()) put(undo.key, std::move(undo.value), newest_version_);
    unsynced_.pop_back();
  }
  // What is on the disk after the power is back is synced.
  unsynced_.clear();
  late_commits_.clear();
}

}  // namespace fdbnbd::kv
