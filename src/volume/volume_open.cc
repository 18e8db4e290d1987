#include <fmt/core.h>

#include <utility>

#include "base/log.h"
#include "kv/retry.h"
#include "volume/record_reader.h"
#include "volume/volume.h"

// How a volume's tenure begins and ends.

namespace fdbnbd::volume {

Task<Result<std::unique_ptr<Volume>>> Volume::open(Environment environment, std::string name,
                                                   VolumeRecord record) {
  std::unique_ptr<Volume> volume(new Volume(environment, std::move(name), record));
  CO_RETURN_IF_ERROR(co_await volume->take());
  Result<void> begun = co_await volume->begin_tenure();
  if (begun) begun = co_await volume->load_layers();
  if (begun) begun = co_await volume->reload_record();
  if (!begun) {
    if (volume->lease_) co_await volume->lease_->stop();
    co_await volume->tasks_.join();
    co_return propagate(begun);
  }
  volume->is_open_ = true;
  // Another server may have asked for it meanwhile.
  if (volume->departed_) volume->tasks_.spawn(volume->hand_over());
  if (volume->record_.stale_end_bytes != 0) volume->tasks_.spawn(volume->finish_shrink());
  co_return volume;
}

Task<Result<void>> Volume::take() {
  if (!lease_) {
    // Whoever had an embedded store before us is gone.
    co_return co_await fence_.acquire();
  }
  CO_RETURN_IF_ERROR(co_await lease_->acquire(name_));
  lease_->start([this] { on_lost(); }, [this] { on_handover(); });
  co_return Result<void>();
}

Result<void> Volume::check_tenure() const {
  // Once it is on its way to another server it may well be that one's.
  if (departed_.load(std::memory_order_relaxed))
    return fail(Errc::cancelled, fmt::format("volume \"{}\" goes on for clients that connect anew", name_));
  if (fence_.is_lost()) {
    return fail(
        Errc::fenced,
        fmt::format("another server has taken volume \"{}\" over; clients have to connect anew", name_));
  }
  return {};
}

Task<Result<void>> Volume::check_lease() {
  CO_RETURN_IF_ERROR(check_tenure());
  if (!lease_) co_return Result<void>{};
  const Result<void> renewed = co_await lease_->renew();
  CO_RETURN_IF_ERROR(check_tenure());
  co_return renewed;
}

Task<Result<void>> Volume::prove_tenure() {
  if (may_answer_reads()) co_return Result<void>{};
  co_return co_await check_lease();
}

void Volume::on_lost() {
  log::error("volume \"{}\" has been taken over by another server: its clients get errors from now on",
             name_);
  tasks_.spawn(drop_presence());
}

// What another server has changed must not be answered from here: nothing of it is kept.
Task<void> Volume::drop_presence() {
  RangeLock::Guard everything(locks_, 0, UINT64_MAX, RangeLock::Mode::exclusive);
  co_await everything.acquire();
  chain_.forget();
}

void Volume::on_handover() {
  if (closing_ || is_retired()) return;  // it is let go in any case
  departed_.store(true, std::memory_order_relaxed);
  if (is_open_) tasks_.spawn(hand_over());  // else open() does
}

Task<void> Volume::depart() {
  if (is_retired()) co_return co_await wait_until_let_go();
  departed_.store(true, std::memory_order_relaxed);
  co_await let_go();
}

Task<void> Volume::wait_until_let_go() {
  while (departed_.load(std::memory_order_relaxed) && !is_let_go_) co_await let_go_.wait();
}

Task<void> Volume::let_go() {
  {
    RangeLock::Guard everything(locks_, 0, UINT64_MAX, RangeLock::Mode::exclusive);
    co_await everything.acquire();
  }
  if (lease_) co_await lease_->stop();
  if (!fence_.is_lost()) co_await release();
  is_let_go_ = true;
  let_go_.notify_all();
}

void Volume::note_snapshot() {
  if (!closing_ && !is_retired()) tasks_.spawn(refresh_fence());
}

Task<void> Volume::refresh_fence() {
  // What goes wrong here is told to the writes.
  static_cast<void>(co_await fence_.refresh());
}

Task<void> Volume::hand_over() {
  co_await let_go();
  log::info("volume \"{}\" has been handed over", name_);
}

template <typename Attempt>
Task<Result<void>> Volume::decide_as_owner(Attempt& attempt) {
  bool in_doubt = false;
  for (uint32_t number = 1;; ++number) {
    Result<void> result = co_await kv::transact<void>(engine_, executor_, random_, attempt);
    if (result) co_return result;
    if (result.error().code == Errc::fenced) co_return co_await fence_.refresh();
    if (result.error().code == Errc::unknown_result) {
      in_doubt = true;
      result = co_await fence_.barrier();
      if (result) continue;
    }
    if (!in_doubt || fence_.is_lost()) co_return result;
    // An attempt in doubt may have happened, so this may not fail as if nothing had: what is in memory of the
    // volume may not be what is stored.
    if (!kv::is_retryable(result.error().code)) {
      log::error("volume \"{}\": whether its record has changed is not known: {}", name_,
                 result.error().what);
      co_return fence_.give_up();
    }
    log::warning("volume \"{}\": whether its record has changed is not known yet: {}", name_,
                 result.error().what);
    co_await sleep_for(executor_, kv::backoff(number, random_));
  }
}

template <typename Body>
Task<Result<void>> Volume::transact_as_owner(Body& body) {
  auto attempt = [this, &body](kv::Transaction& transaction) { return run_as_owner(transaction, body); };
  co_return co_await decide_as_owner(attempt);
}

template <typename Body>
Task<Result<void>> Volume::run_as_owner(kv::Transaction& transaction, Body& body) {
  const std::string key = keys_.fence(record_.id);
  auto value = co_await transaction.get(key, kv::Isolation::serializable);
  if (!value) co_return propagate(value);
  if (!value->has_value()) co_return fail(Errc::fenced, fmt::format("volume \"{}\" has been removed", name_));
  ASSIGN_OR_CO_RETURN(const FenceRecord fence, FenceRecord::decode(**value));
  if (!fence.same_tenure(fence_.record())) {
    co_return fail(Errc::fenced, fmt::format("another server has taken volume \"{}\" over", name_));
  }
  body(transaction, fence);
  co_return Result<void>{};
}

Task<Result<void>> Volume::begin_tenure() {
  // From now on the usage changes; the record is written again when the tenure ends.
  auto clear_usage = [&](kv::Transaction& owned, const FenceRecord& fence) {
    owned.clear(keys_.usage(fence.top_layer));
  };
  co_return co_await transact_as_owner(clear_usage);
}

Task<Result<void>> Volume::load_layers() {
  while (true) {
    const LayerId top = fence_.record().top_layer;
    auto loaded = co_await chain_.load(top);
    if (loaded) break;
    chain_.forget();
    const Errc code = loaded.error().code;
    if (code == Errc::not_found) {
      // It is there while the fence names it.
      CO_RETURN_IF_ERROR(co_await fence_.refresh());
      if (fence_.record().top_layer != top) continue;
    }
    co_return fail(code == Errc::not_found ? Errc::corruption : code,
                   fmt::format("{}: {}", display_name(), loaded.error().what));
  }
  note_usage();
  co_return Result<void>{};
}

Task<Result<void>> Volume::reload_record() {
  const std::string key = keys_.volume(record_.id);
  auto body = [&](kv::Transaction& transaction) {
    return get_record<VolumeRecord>(transaction, key, kv::Isolation::snapshot);
  };
  auto record = co_await kv::transact<std::optional<VolumeRecord>>(engine_, executor_, random_, body);
  if (!record) co_return propagate(record);
  if (!*record || (*record)->is_trashed) {
    co_await release();
    co_return fail(Errc::not_found, fmt::format("volume \"{}\" has just been removed", name_));
  }
  record_ = std::move(**record);
  size_bytes_.store(record_.size_bytes, std::memory_order_relaxed);
  co_return Result<void>{};
}

Task<Result<void>> Volume::change_record(FunctionRef<void(VolumeRecord&)> change) {
  auto attempt = [this, &change](kv::Transaction& transaction) {
    return change_record_in(transaction, change);
  };
  CO_RETURN_IF_ERROR(co_await decide_as_owner(attempt));
  change(record_);
  co_return Result<void>{};
}

Task<Result<void>> Volume::change_record_in(kv::Transaction& transaction,
                                            FunctionRef<void(VolumeRecord&)> change) {
  auto nothing = [](kv::Transaction&, const FenceRecord&) {};
  CO_RETURN_IF_ERROR(co_await run_as_owner(transaction, nothing));
  const std::string key = keys_.volume(record_.id);
  ASSIGN_OR_CO_RETURN(auto record,
                      co_await get_record<VolumeRecord>(transaction, key, kv::Isolation::serializable));
  if (!record) co_return fail(Errc::corruption, fmt::format("{}: its record is missing", display_name()));
  change(*record);
  if (record->stale_end_bytes != 0 && record->stale_end_bytes <= record->size_bytes)
    co_return fail(Errc::corruption, fmt::format("{}: its record is not what it was", display_name()));
  transaction.set(key, record->encode());
  co_return Result<void>{};
}

Task<void> Volume::close() {
  closing_ = true;
  co_await tasks_.join();
  if (lease_) co_await lease_->stop();
  co_await tasks_.join();  // the last heartbeat may have found the volume lost
  if (!is_retired()) co_await release();
  co_await commits_.idle();  // the last batch may be the one that brought this about
}

Task<void> Volume::release() {
  co_await commits_.idle();
  auto attempt = [this](kv::Transaction& transaction) { return release_in(transaction); };
  for (uint32_t number = 1;; ++number) {
    const Result<void> released = co_await kv::transact<void>(engine_, executor_, random_, attempt);
    if (released) co_return;
    // Another attempt reads the fence, so what is in doubt has happened before it or never will.
    if (released.error().code == Errc::unknown_result && number < limits::kMaxTransactionAttempts) {
      co_await sleep_for(executor_, kv::backoff(number, random_));
      continue;
    }
    log::warning(
        "volume \"{}\" could not be let go: it is free after the lease time, and its usage is counted "
        "anew: {}",
        name_, released.error().what);
    co_return;
  }
}

// Changes nothing once the volume is not ours any more, whether an earlier attempt let it go or somebody took
// it.
Task<Result<void>> Volume::release_in(kv::Transaction& transaction) {
  ASSIGN_OR_CO_RETURN(auto fence, co_await get_record<FenceRecord>(transaction, keys_.fence(record_.id),
                                                                   kv::Isolation::serializable));
  if (!fence || !fence->same_tenure(fence_.record())) co_return Result<void>{};
  fence->owner = {};
  transaction.set(keys_.fence(record_.id), fence->encode());
  const UsageRecord usage{.data_blocks_count = chain_.map().data_blocks_count()};
  transaction.set(keys_.usage(fence->top_layer), usage.encode());
  co_return Result<void>{};
}

}  // namespace fdbnbd::volume
