#include "volume/fence.h"

#include <fmt/core.h>

#include <algorithm>
#include <memory>

#include "base/endian.h"
#include "base/log.h"
#include "kv/retry.h"

namespace fdbnbd::volume {

Fence::Fence(kv::Engine& engine, Executor& executor, std::string key, InstanceId owner)
    : engine_(engine),
      executor_(executor),
      key_(std::move(key)),
      key_end_(key_after(key_)),
      owner_(owner),
      random_(load_be<uint64_t>(owner.data())) {}

template <typename Attempt>
Task<Result<void>> Fence::persist(Attempt attempt) {
  for (uint32_t number = 1;; ++number) {
    Result<void> result = co_await attempt();
    if (result) co_return result;
    const Errc code = result.error().code;
    if (code != Errc::unknown_result && !kv::is_retryable(code)) co_return result;
    if (number == 10)
      log::warning("the store does not answer for a volume's fence: {}; still trying", result.error().what);
    co_await sleep_for(executor_, kv::backoff(number, random_));
  }
}

Error Fence::lost(std::string what) {
  lost_.store(true, std::memory_order_relaxed);
  return {Errc::fenced, std::move(what)};
}

tl::unexpected<Error> Fence::give_up() {
  return tl::unexpected(lost("the outcome of a change is not known; clients have to connect anew"));
}

Task<Result<void>> Fence::try_acquire(const std::optional<FenceRecord>& from, Along along) {
  const std::unique_ptr<kv::Transaction> transaction = engine_.begin(executor_);
  auto value = co_await transaction->get(key_, kv::Isolation::serializable);
  if (!value) co_return propagate(value);
  if (!value->has_value()) co_return fail(Errc::not_found, "the volume has been removed");
  ASSIGN_OR_CO_RETURN(FenceRecord record, FenceRecord::decode(**value));
  // An attempt with an unknown result may have made it ours already: raising the epoch twice does no harm.
  if (from && !record.same_tenure(*from) && record.owner != owner_)
    co_return fail(Errc::busy, "another server was faster to take the volume");
  ++record.epoch;
  record.owner = owner_;
  transaction->set(key_, record.encode());
  CO_RETURN_IF_ERROR(co_await along(*transaction));
  auto committed = co_await transaction->commit();
  if (!committed) co_return propagate(committed);
  record_ = record;
  co_return Result<void>{};
}

Task<Result<void>> Fence::acquire(std::optional<FenceRecord> from, Along along) {
  const auto attempt = [&] { return try_acquire(from, along); };
  CO_RETURN_IF_ERROR(co_await persist(attempt));
  co_return co_await refresh();
}

Task<Result<void>> Fence::acquire() {
  const auto nothing_else = [](kv::Transaction&) -> Task<Result<void>> { co_return Result<void>(); };
  co_return co_await acquire(std::nullopt, nothing_else);
}

void Fence::on_committed(kv::Version version) {
  version_ = std::max(version_, version - 1);
}

void Fence::on_committed(kv::Version version, const FenceRecord& record) {
  take_note(record, version - 1);
}

void Fence::take_note(const FenceRecord& record, kv::Version version) {
  // Several reads may be under way, and an older one may end last.
  if (version < version_) return;
  record_ = record;
  version_ = version;
}

Task<Result<void>> Fence::try_read() {
  if (is_lost()) co_return fail(Errc::fenced, "another server has taken the volume over");
  const std::unique_ptr<kv::Transaction> transaction = engine_.begin(executor_);
  auto read_version = co_await transaction->read_version();
  if (!read_version) co_return propagate(read_version);
  auto value = co_await transaction->get(key_, kv::Isolation::snapshot);
  if (!value) co_return propagate(value);
  if (!value->has_value()) co_return tl::unexpected(lost("the volume has been removed"));
  ASSIGN_OR_CO_RETURN(const FenceRecord record, FenceRecord::decode(**value));
  if (!record.same_tenure(record_)) {
    co_return tl::unexpected(lost(fmt::format(
        "another server has taken the volume over (epoch {}, ours was {})", record.epoch, record_.epoch)));
  }
  take_note(record, *read_version);
  co_return Result<void>{};
}

Task<Result<void>> Fence::refresh() {
  co_return co_await persist([this] { return try_read(); });
}

Task<Result<void>> Fence::try_barrier() {
  const std::unique_ptr<kv::Transaction> transaction = engine_.begin(executor_);
  auto value = co_await transaction->get(key_, kv::Isolation::serializable);
  if (!value) co_return propagate(value);
  if (!value->has_value()) co_return Result<void>{};  // the refresh that follows says so
  ASSIGN_OR_CO_RETURN(FenceRecord record, FenceRecord::decode(**value));
  if (!record.same_tenure(record_)) co_return Result<void>{};
  ++record.barrier;
  transaction->set(key_, record.encode());
  auto committed = co_await transaction->commit();
  if (!committed) co_return propagate(committed);
  co_return Result<void>{};
}

Task<Result<void>> Fence::barrier() {
  CO_RETURN_IF_ERROR(co_await persist([this] { return try_barrier(); }));
  co_return co_await refresh();
}

}  // namespace fdbnbd::volume
