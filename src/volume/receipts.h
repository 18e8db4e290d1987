#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "async/executor.h"
#include "async/task.h"
#include "base/limits.h"
#include "base/random.h"
#include "base/result.h"
#include "kv/engine.h"
#include "kv/retry.h"
#include "volume/keys.h"
#include "volume/records.h"

namespace fdbnbd::volume {

// What the first attempt of a transaction reads.
enum class FirstRead : uint8_t {
  at_new_version,
  // Where the store is a cluster, one round trip less. The body reads serializably whatever it goes by.
  at_recent_version,
};

// Transactions of verbs, each of which happens once and whose outcome is known, however often the store does
// not tell it. What stands in the store afterwards does not tell whose work it is: another process may have
// removed the same volume, or given the name away again. So each attempt writes a receipt along, under an id
// chosen for this call, and has it in its read conflicts: of several attempts one can happen, and the receipt
// says which.
//
// Receipts of what is decided are removed some at a time, and with clear(); those of a process that has
// ended, with clear_expired(). On the executor's thread.
class Receipts {
 public:
  // All outlive it. `seed` is for ids and the back-off.
  Receipts(kv::Engine& engine, Executor& executor, const KeySpace& keys, uint64_t seed)
      : engine_(engine), executor_(executor), keys_(keys), random_(seed) {}

  // Runs `body(Transaction&)` -> Task<Result<T>> and commits, until that has happened or surely never will:
  // what the body gave in the attempt that happened, or why it does not; unknown_result where a store told
  // neither limits::kMaxTransactionAttempts times. The body may run several times, and
  // must have no effect but on the transaction and in what it gives. It is kept by the caller until the task
  // is done.
  template <typename T, typename Body>
  Task<Result<T>> decide(Body& body, FirstRead first_read = FirstRead::at_new_version) {
    if (!engine_.capabilities().commits_can_be_in_doubt)
      co_return co_await kv::transact<T>(engine_, executor_, random_, body);
    Decision<T> decision;
    decision.id = new_id();
    decision.may_read_recent = first_read == FirstRead::at_recent_version;
    auto attempt = [&](kv::Transaction& transaction) { return attempt_in<T>(transaction, decision, body); };
    auto refuse = [&](kv::Transaction& transaction) { return refuse_in<T>(transaction, decision); };
    Result<T> result = co_await kv::transact<T>(engine_, executor_, random_, attempt);
    while (is_in_doubt(result)) {
      decision.in_doubt.push_back(std::move(*decision.last));
      if (decision.in_doubt.size() == limits::kMaxTransactionAttempts) break;
      co_await wait_for_attempt(decision.in_doubt.size());
      result = co_await kv::transact<T>(engine_, executor_, random_, attempt);
    }
    if (!result && !decision.in_doubt.empty()) {
      // An attempt in doubt may still be on its way: it must not happen behind a refusal.
      decision.refusal = result.error();
      for (size_t number = 1; number <= limits::kMaxTransactionAttempts; ++number) {
        result = co_await kv::transact<T>(engine_, executor_, random_, refuse);
        if (!is_in_doubt(result)) break;
        co_await wait_for_attempt(number);
      }
      if (result && decision.is_refused) result = tl::unexpected(*decision.refusal);
    }
    if (decision.has_receipt) done_.push_back(decision.id);
    if (done_.size() >= limits::kMaxReceiptsKept) co_await clear();
    co_return result;
  }

  // Removes the receipts of what has been decided here, where that is possible at once; the others expire.
  Task<void> clear();

  // Removes those that nobody can be waiting for any more.
  Task<void> clear_expired();

 private:
  struct Call {
    ReceiptId id;
    bool has_receipt = false;  // there may be one in the store
    bool may_read_recent = false;
  };
  template <typename T>
  struct Decision : Call {
    std::optional<Result<T>> last;    // what the body gave in the last attempt
    std::vector<Result<T>> in_doubt;  // what it gave in each attempt whose outcome is unknown
    std::optional<Error> refusal;     // why nothing is to happen
    bool is_refused = false;
  };

  template <typename T>
  static bool is_in_doubt(const Result<T>& result) {
    return !result && result.error().code == Errc::unknown_result;
  }

  template <typename T, typename Body>
  Task<Result<T>> attempt_in(kv::Transaction& transaction, Decision<T>& decision, Body& body) {
    const auto attempts_count = static_cast<uint32_t>(decision.in_doubt.size());
    const bool reads_recent =
        std::exchange(decision.may_read_recent, false) && transaction.use_recent_version();
    ASSIGN_OR_CO_RETURN(const auto happened, co_await find(transaction, decision, attempts_count));
    if (happened) co_return decision.in_doubt[*happened];
    decision.last = co_await body(transaction);
    const bool changes = transaction.mutation_bytes() > 0 || attempts_count > 0;
    // Only a commit would prove that it still holds.
    if (reads_recent && (!*decision.last || !changes))
      co_return fail(Errc::conflict, "what was read may have changed since");
    if (*decision.last && changes) write(transaction, decision, attempts_count);
    co_return *decision.last;
  }

  template <typename T>
  Task<Result<T>> refuse_in(kv::Transaction& transaction, Decision<T>& decision) {
    ASSIGN_OR_CO_RETURN(const auto happened, co_await find(transaction, decision,
                                                           static_cast<uint32_t>(decision.in_doubt.size())));
    decision.is_refused = !happened;
    if (happened) co_return decision.in_doubt[*happened];
    write(transaction, decision, ReceiptRecord::kRefused);
    co_return decision.in_doubt.front();  // not what the caller is told
  }

  Task<void> wait_for_attempt(size_t number) {
    co_await sleep_for(executor_, kv::backoff(static_cast<uint32_t>(number), random_));
  }
  ReceiptId new_id();
  // Which attempt in doubt has happened. Nothing is asked of the store where there is none.
  Task<Result<std::optional<uint32_t>>> find(kv::Transaction& transaction, const Call& call,
                                             uint32_t attempts_count);
  void write(kv::Transaction& transaction, Call& call, uint32_t attempt);
  Task<Result<void>> clear_expired_in(kv::Transaction& transaction);

  kv::Engine& engine_;
  Executor& executor_;
  const KeySpace& keys_;
  Random random_;
  std::vector<ReceiptId> done_;  // of what is decided
};

}  // namespace fdbnbd::volume
