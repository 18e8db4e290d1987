#pragma once

#include <memory>
#include <utility>

#include "async/executor.h"
#include "async/task.h"
#include "base/limits.h"
#include "base/random.h"
#include "kv/engine.h"

namespace fdbnbd::kv {

// How long to wait before attempt number `attempt` (from 1): exponential with jitter, at most a second. Pure.
Duration backoff(uint32_t attempt, Random& random);

// Whether a failed attempt is worth another one.
bool is_retryable(Errc code);

// Runs `body(Transaction&)` -> Task<Result<T>> and commits, again and again while it fails with conflict or
// unavailable, at most limits::kMaxTransactionAttempts times. For metadata: `body` may run several times and
// must have no effect but on the transaction. A commit with an unknown result is an error to the caller,
// since running the body again could act on its own traces; bodies that check for them (ids chosen before the
// call) may be retried by their caller.
//
// `body` and `random` (for the back-off) are kept by the caller until the task is done.
template <typename T, typename Body>
Task<Result<T>> transact(Engine& engine, Executor& executor, Random& random, Body& body) {
  for (uint32_t attempt = 1;; ++attempt) {
    const std::unique_ptr<Transaction> transaction = engine.begin(executor);
    Result<T> result = co_await body(*transaction);
    Errc failure{};
    if (result) {
      Result<Version> committed = co_await transaction->commit();
      if (committed) co_return result;
      failure = committed.error().code;
      if (!is_retryable(failure) || attempt >= limits::kMaxTransactionAttempts)
        co_return propagate(committed);
    } else {
      failure = result.error().code;
      if (!is_retryable(failure) || attempt >= limits::kMaxTransactionAttempts) co_return result;
    }
    co_await sleep_for(executor, backoff(attempt, random));
  }
}

}  // namespace fdbnbd::kv
