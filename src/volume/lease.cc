#include "volume/lease.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>

#include "base/assert.h"
#include "base/endian.h"
#include "base/log.h"
#include "kv/retry.h"
#include "volume/record_reader.h"

namespace fdbnbd::volume {

namespace {

Error held(const std::string& volume_name, const HolderSight& sight) {
  return {Errc::busy,
          fmt::format("volume \"{}\" is held by {}, which is alive; stop it there, or take the volume with "
                      "serve --takeover or lock break",
                      volume_name, sight.holder())};
}

// Reads the fence serializably: an attempt that takes effect late must not ask whoever took the volume
// meanwhile, who has cleared what was asked of the holder before him.
Task<Result<void>> ask_in(kv::Transaction& transaction, const LeasePlace& place, const FenceRecord& tenure,
                          const HandoverRecord& request) {
  ASSIGN_OR_CO_RETURN(const auto fence,
                      co_await get_record<FenceRecord>(transaction, place.keys.fence(place.volume),
                                                       kv::Isolation::serializable));
  if (fence && fence->same_tenure(tenure))
    transaction.set(place.keys.handover(place.volume), request.encode());
  co_return Result<void>();
}

// Asks the holder of that tenure.
Task<Result<void>> ask_for_handover(LeasePlace place, FenceRecord tenure, std::string holder) {
  Random random(load_be<uint64_t>(place.self.data()));
  const HandoverRecord request{place.self, std::move(holder)};
  auto body = [&](kv::Transaction& transaction) { return ask_in(transaction, place, tenure, request); };
  while (true) {
    auto asked = co_await kv::transact<void>(place.engine, place.executor, random, body);
    if (asked || asked.error().code != Errc::unknown_result) co_return asked;
  }
}

// Takes back what was asked for, so that the volume is not handed to somebody who does not come for it. One
// attempt: who gives up does not wait for the store.
Task<void> withdraw_request(LeasePlace place) {
  const std::unique_ptr<kv::Transaction> transaction = place.engine.begin(place.executor);
  const std::string key = place.keys.handover(place.volume);
  const auto request = co_await get_record<HandoverRecord>(*transaction, key, kv::Isolation::serializable);
  if (!request || !*request || (*request)->requester != place.self) co_return;
  transaction->clear(key);
  static_cast<void>(co_await transaction->commit());
}

// One who waits for a volume.
class Waiter {
 public:
  Waiter(LeasePlace place, Ownership ownership, std::string volume_name)
      : place_(place),
        ownership_(std::move(ownership)),
        volume_name_(std::move(volume_name)),
        watch_(place.self, ownership_.lease_duration),
        random_(load_be<uint64_t>(place.self.data())) {}

  Task<Result<Vacancy>> run();

 private:
  Task<Result<Vacancy>> wait();
  MonotonicTime now() const { return place_.executor.clock().now(); }
  // What the look means: that the volume may be taken, or nothing yet.
  Task<Result<std::optional<Vacancy>>> judge(HolderSight sight, HolderWatch::Verdict verdict);

  const LeasePlace place_;
  const Ownership ownership_;
  const std::string volume_name_;
  HolderWatch watch_;
  Random random_;  // for back-off
  std::optional<MonotonicTime> asked_for_handover_at_;
};

Task<Result<Vacancy>> Waiter::run() {
  auto vacancy = co_await wait();
  if (!vacancy && asked_for_handover_at_) co_await withdraw_request(place_);
  co_return vacancy;
}

Task<Result<Vacancy>> Waiter::wait() {
  const Duration poll = ownership_.takeover == Takeover::handover
                            ? Duration(limits::kHandoverPoll)
                            : ownership_.lease_duration / limits::kLeasePollsPerLease;
  for (uint32_t failures_count = 0;;) {
    if (place_.stopping) co_return fail(Errc::cancelled, "the server is stopping");
    const MonotonicTime asked_at = now();
    auto sight = co_await look_at_holder(place_);
    if (sight) {
      failures_count = 0;
      const HolderWatch::Verdict verdict = watch_.look(*sight, asked_at, now());
      ASSIGN_OR_CO_RETURN(auto vacancy, co_await judge(std::move(*sight), verdict));
      if (vacancy) co_return std::move(*vacancy);
      co_await sleep_for(place_.executor, poll);
    } else {
      if (!kv::is_retryable(sight.error().code)) co_return propagate(sight);
      co_await sleep_for(place_.executor, kv::backoff(++failures_count, random_));
    }
  }
}

Task<Result<std::optional<Vacancy>>> Waiter::judge(HolderSight sight, HolderWatch::Verdict verdict) {
  using Verdict = HolderWatch::Verdict;
  Vacancy vacancy{.tenure = sight.fence, .is_of_silent_holder = false, .last_heartbeat = sight.heartbeat};
  if (verdict == Verdict::free) co_return vacancy;
  const char* why = nullptr;
  if (verdict == Verdict::silent) why = "it gave no sign of life for the lease time";
  if (ownership_.takeover == Takeover::force) why = "by force";
  // What it has left in flight cannot take effect any more: the fence sees to that.
  if (sight.holder_has_ended()) why = "that process has ended";
  if (why != nullptr) {
    log::warning("volume \"{}\" is to be taken from {}: {}", volume_name_, sight.holder(), why);
    vacancy.is_of_silent_holder = ownership_.takeover != Takeover::force && !sight.holder_has_ended();
    co_return vacancy;
  }
  if (ownership_.takeover == Takeover::when_free) {
    if (verdict == Verdict::alive) co_return tl::unexpected(held(volume_name_, sight));
    co_return std::nullopt;
  }
  // It has been handed over to another server, which is about to come for it: asking would undo that.
  if (sight.fence.is_free()) co_return std::nullopt;
  const bool is_first = !asked_for_handover_at_;
  if (is_first) asked_for_handover_at_ = now();
  if (now() - *asked_for_handover_at_ > limits::kHandoverTimeout)
    co_return tl::unexpected(held(volume_name_, sight));
  // Somebody else who takes the volume meanwhile clears what we asked of the holder before him.
  if (is_first || !sight.handover)
    CO_RETURN_IF_ERROR(co_await ask_for_handover(place_, sight.fence, ownership_.holder));
  co_return std::nullopt;
}

Task<Result<HolderSight>> look_in(kv::Transaction& transaction, const LeasePlace& place) {
  ASSIGN_OR_CO_RETURN(auto fence, co_await get_record<FenceRecord>(
                                      transaction, place.keys.fence(place.volume), kv::Isolation::snapshot));
  if (!fence) co_return fail(Errc::not_found, "the volume has been removed");
  HolderSight sight{.fence = *fence, .heartbeat = {}, .handover = {}};
  ASSIGN_OR_CO_RETURN(sight.heartbeat,
                      co_await get_record<HeartbeatRecord>(transaction, place.keys.heartbeat(place.volume),
                                                           kv::Isolation::snapshot));
  ASSIGN_OR_CO_RETURN(sight.handover,
                      co_await get_record<HandoverRecord>(transaction, place.keys.handover(place.volume),
                                                          kv::Isolation::snapshot));
  co_return sight;
}

}  // namespace

Task<Result<HolderSight>> look_at_holder(LeasePlace place) {
  Random random(load_be<uint64_t>(place.self.data()));
  auto body = [&](kv::Transaction& transaction) { return look_in(transaction, place); };
  co_return co_await kv::transact<HolderSight>(place.engine, place.executor, random, body);
}

Task<Result<Vacancy>> wait_for_holder(LeasePlace place, Ownership ownership, std::string volume_name) {
  Waiter waiter(place, std::move(ownership), std::move(volume_name));
  co_return co_await waiter.run();
}

Lease::Lease(LeasePlace place, Ownership ownership, Fence& fence)
    : place_(place),
      ownership_(std::move(ownership)),
      fence_key_(place.keys.fence(place.volume)),
      heartbeat_key_(place.keys.heartbeat(place.volume)),
      handover_key_(place.keys.handover(place.volume)),
      fence_(fence) {}

Lease::~Lease() {
  ASSERT(!started_ && !beating_);
}

HeartbeatRecord Lease::next_heartbeat() {
  return {.owner = place_.self,
          .counter = ++counter_,
          .lease_duration_ms = static_cast<uint32_t>(
              std::chrono::duration_cast<std::chrono::milliseconds>(ownership_.lease_duration).count()),
          .process = ownership_.process,
          .holder = ownership_.holder};
}

void Lease::on_proven(MonotonicTime begun_at) {
  const Duration usable =
      ownership_.lease_duration - ownership_.lease_duration / limits::kLeaseReadMarginDivisor;
  reads_until_ = std::max(reads_until_, begun_at + usable);
}

// The holder's heartbeat is in the conflicts: that the volume is taken proves that he has not been heard of,
// so what he was allowed by the last one has ended.
Task<Result<void>> Lease::announce(kv::Transaction& transaction, const Vacancy& vacancy,
                                   const std::string& heartbeat) {
  ASSIGN_OR_CO_RETURN(const bool is_silent,
                      co_await is_still_silent(transaction, place_.keys, place_.volume, vacancy));
  if (!is_silent) co_return fail(Errc::busy, "its holder is alive");
  transaction.set(heartbeat_key_, heartbeat);
  transaction.clear(handover_key_);
  co_return Result<void>();
}

Task<Result<void>> Lease::acquire(std::string volume_name) {
  const std::string heartbeat = next_heartbeat().encode();
  while (true) {
    ASSIGN_OR_CO_RETURN(const Vacancy vacancy, co_await wait_for_holder(place_, ownership_, volume_name));
    const auto along = [&](kv::Transaction& transaction) {
      return announce(transaction, vacancy, heartbeat);
    };
    const MonotonicTime begun_at = place_.executor.clock().now();
    Result<void> acquired = co_await fence_.acquire(vacancy.tenure, along);
    if (acquired) {
      on_proven(begun_at);
      co_return Result<void>();
    }
    if (acquired.error().code != Errc::busy) co_return acquired;
  }
}

void Lease::start(UniqueFunction<void()> on_lost, UniqueFunction<void()> on_handover) {
  on_lost_ = std::move(on_lost);
  on_handover_ = std::move(on_handover);
  started_ = true;
  place_.executor.start_timer(*this, interval());
}

Task<void> Lease::stop() {
  if (started_) place_.executor.cancel_timer(*this);
  started_ = false;
  co_await scope_.join();
}

void Lease::run() noexcept {
  if (!beating_) scope_.spawn(beat());
  if (started_) place_.executor.start_timer(*this, interval());
}

Task<void> Lease::beat() {
  beating_ = true;
  const Result<void> beaten = co_await try_beat();
  if (!beaten && beaten.error().code == Errc::conflict) static_cast<void>(co_await fence_.refresh());
  beating_ = false;
  if (fence_.is_lost() && started_) {
    place_.executor.cancel_timer(*this);
    started_ = false;
    on_lost_();
  }
  beat_ended_.notify_all();
}

// The fence is read at a fresh version and is in the conflicts: that the beat commits proves that the volume
// was ours when it began.
Task<Result<void>> Lease::try_beat() {
  const MonotonicTime begun_at = place_.executor.clock().now();
  const std::unique_ptr<kv::Transaction> transaction = place_.engine.begin(place_.executor);
  auto fence = co_await transaction->get(fence_key_, kv::Isolation::serializable);
  if (!fence) co_return propagate(fence);
  if (!fence->has_value()) co_return fail(Errc::conflict, "the volume has been removed");
  ASSIGN_OR_CO_RETURN(const FenceRecord record, FenceRecord::decode(**fence));
  if (!record.same_tenure(fence_.record())) co_return fail(Errc::conflict, "the volume has been taken over");
  ASSIGN_OR_CO_RETURN(const auto handover, co_await get_record<HandoverRecord>(*transaction, handover_key_,
                                                                               kv::Isolation::snapshot));
  // In the conflicts of who takes the volume from a silent holder, and of nobody else.
  transaction->set(heartbeat_key_, next_heartbeat().encode());
  auto committed = co_await transaction->commit();
  if (!committed) co_return propagate(committed);
  fence_.on_committed(*committed, record);
  on_proven(begun_at);
  if (handover && handover->requester != place_.self && on_handover_) {
    log::info("{} asks for a volume that is served here: it is handed over", handover->holder);
    std::exchange(on_handover_, {})();
  }
  co_return Result<void>();
}

Task<Result<void>> Lease::renew() {
  Random random(load_be<uint64_t>(place_.self.data()));
  for (uint32_t attempt = 1; !allows_reads(); ++attempt) {
    if (fence_.is_lost()) co_return fail(Errc::fenced, "another server has taken the volume over");
    if (!beating_) scope_.spawn(beat());
    if (beating_) co_await beat_ended_.wait();
    if (!allows_reads() && !fence_.is_lost())
      co_await sleep_for(place_.executor, kv::backoff(attempt, random));
  }
  co_return Result<void>();
}

}  // namespace fdbnbd::volume
