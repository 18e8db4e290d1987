#include "fake_cluster.h"

#include <algorithm>
#include <iterator>

namespace fdbnbd::fake {

namespace {

constexpr int kTransactionTooOld = 1007;
constexpr int kFutureVersion = 1009;
constexpr int kNotCommitted = 1020;
constexpr size_t kMaxResolverEntries = 1'000'000;
constexpr uint64_t kMaxVersionStep = 1000;

}  // namespace

void Cluster::reset(uint64_t seed) {
  rows_.clear();
  // Later than everything before, so that nothing cached elsewhere fits.
  newest_version_ += 1'000'000'000;
  oldest_version_ = newest_version_;
  window_ = 5'000'000;
  resolver_ = std::make_unique<kv::Resolver>(kMaxResolverEntries);
  resolver_->forget_until(newest_version_);
  for (auto& queue : faults) queue.clear();
  for (size_t what = 0; what < counts.size(); ++what)
    if (what < kv::fdb::kFakeLiveFutures) counts[what] = 0;
  late_commits.clear();
  unreachable = cancel_ignored = batch_starved = immediate = holding = false;
  batching = true;
  random = Random(seed);
}

void Cluster::advance(Version versions) {
  newest_version_ += versions;
  oldest_version_ = std::max(oldest_version_, newest_version_ - window_);
  resolver_->forget_until(oldest_version_);
}

int Cluster::check_readable(Version version) const {
  if (version < oldest_version_) return kTransactionTooOld;
  return version > newest_version_ ? kFutureVersion : 0;
}

Value Cluster::visible(const std::vector<Stored>& history, Version version) {
  for (auto stored = history.rbegin(); stored != history.rend(); ++stored)
    if (stored->version <= version) return stored->value;
  return nullptr;
}

Value Cluster::get(const std::string& key, Version version) const {
  const auto row = rows_.find(key);
  return row == rows_.end() ? nullptr : visible(row->second, version);
}

bool Cluster::get_range(const std::string& begin, const std::string& end, size_t rows_limit,
                        size_t bytes_limit, bool reverse, Version version, std::vector<Row>& rows) const {
  if (begin >= end) return false;
  size_t bytes = 0;
  const auto first = rows_.lower_bound(begin);
  const auto last = rows_.lower_bound(end);
  const auto take = [&](const auto& row) {
    const Value value = visible(row.second, version);
    if (value == nullptr) return true;
    if (rows.size() >= rows_limit || bytes >= bytes_limit) return false;
    rows.push_back({row.first, value});
    bytes += row.first.size() + value->size() + 8;
    return true;
  };
  if (reverse) {
    for (auto row = last; row != first;)
      if (!take(*--row)) return true;
  } else {
    for (auto row = first; row != last; ++row)
      if (!take(*row)) return true;
  }
  return false;
}

void Cluster::begin_batch() {
  batch_version_ = newest_version_ + 1 + static_cast<Version>(random.below(kMaxVersionStep));
  batch_commits_ = 0;
}

int Cluster::commit(const Commit& request, Version& version) {
  const Version read_version = request.read_version.value_or(newest_version_);
  if (!request.read_conflicts.empty()) {
    if (read_version < std::max(oldest_version_, resolver_->oldest_version())) return kTransactionTooOld;
    // The resolver's rule: what changed at the read version itself is no conflict. Writes of the same batch
    // have a later version than any read version, so they are one.
    for (const auto& [begin, end] : request.read_conflicts)
      if (resolver_->changed_since({begin, end}, read_version)) return kNotCommitted;
  }
  version = batch_version_;
  ++counts[kv::fdb::kFakeCommits];
  if (++batch_commits_ > 1) ++counts[kv::fdb::kFakeSharedVersions];
  newest_version_ = version;
  for (size_t i = 0; i < request.mutations.size(); ++i) {
    const kv::Mutation mutation = request.mutations[i];
    const std::string key(mutation.key);
    if (mutation.kind == kv::MutationKind::clear_range) {
      for (auto row = rows_.lower_bound(key); row != rows_.end() && row->first < mutation.value; ++row)
        if (row->second.back().value != nullptr) put(row->first, nullptr, version);
      if (mutation.conflicts) resolver_->record({mutation.key, mutation.value}, version);
      continue;
    }
    Value value;
    if (mutation.kind == kv::MutationKind::set) {
      value = std::make_shared<const std::string>(mutation.value);
    } else if (mutation.kind != kv::MutationKind::clear) {
      const Value old_value = get(key, version);
      std::optional<std::string_view> old_bytes;
      if (old_value != nullptr) old_bytes = *old_value;
      value = std::make_shared<const std::string>(kv::apply_bits(mutation.kind, old_bytes, mutation.value));
    }
    put(key, std::move(value), version);
    if (mutation.conflicts) resolver_->record({mutation.key, kv::key_after(mutation.key)}, version);
  }
  advance(0);
  return 0;
}

void Cluster::put(const std::string& key, Value value, Version version) {
  std::vector<Stored>& history = rows_[key];
  // What no readable version sees any more.
  while (history.size() > 1 && history[1].version <= oldest_version_) history.erase(history.begin());
  if (!history.empty() && history.back().version == version) {
    history.back().value = std::move(value);
  } else {
    history.push_back({version, std::move(value)});
  }
}

std::optional<Fault> Cluster::take_fault(int operation) {
  auto& queue = faults[static_cast<size_t>(operation)];
  if (queue.empty()) return std::nullopt;
  const Fault fault = queue.front();
  queue.pop_front();
  return fault;
}

}  // namespace fdbnbd::fake
