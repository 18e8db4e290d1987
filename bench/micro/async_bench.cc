#include <benchmark/benchmark.h>

#include <cstdint>

#include "async/range_lock.h"
#include "async/run_loop.h"
#include "async/scope.h"
#include "async/task.h"

namespace fdbnbd {
namespace {

using Mode = RangeLock::Mode;

constexpr uint64_t kFarBlock = uint64_t{1} << 40;

Task<uint64_t> one_level(uint64_t value) {
  co_return value + 1;
}

Task<void> await_children(benchmark::State& state) {
  uint64_t value = 0;
  for ([[maybe_unused]] auto unused : state) value = co_await one_level(value);
  benchmark::DoNotOptimize(value);
}

// One call of a coroutine that does not suspend: its frame and two transfers.
void task_call(benchmark::State& state) {
  RunLoop loop;
  loop.run(await_children(state));
}
BENCHMARK(task_call);

Task<void> reschedule_each(benchmark::State& state, RunLoop& loop) {
  for ([[maybe_unused]] auto unused : state) co_await reschedule(loop);
}

// One way through the queue of an executor, from its own thread.
void executor_hop(benchmark::State& state) {
  RunLoop loop;
  loop.run(reschedule_each(state, loop));
}
BENCHMARK(executor_hop);

Task<void> hold(RangeLock& lock, uint64_t begin, Mode mode, RangeLock& turnstile) {
  RangeLock::Guard guard(lock, begin, begin + 1, mode);
  co_await guard.acquire();
  RangeLock::Guard gate(turnstile, 0, 1, Mode::shared);
  co_await gate.acquire();
}

Task<void> acquire_and_release(benchmark::State& state, Mode mode) {
  RangeLock lock;
  RangeLock turnstile;
  TaskScope holders;
  {
    RangeLock::Guard closed(turnstile, 0, 1, Mode::exclusive);
    co_await closed.acquire();
    for (int64_t index = 0; index < state.range(0); ++index) {
      holders.spawn(hold(lock, kFarBlock + static_cast<uint64_t>(index), mode, turnstile));
    }
    uint64_t block = 0;
    for ([[maybe_unused]] auto unused : state) {
      RangeLock::Guard guard(lock, block, block + 1, mode);
      co_await guard.acquire();
      block = (block + 1) % kFarBlock;
    }
  }
  co_await holders.join();
}

// A lock that nothing contends for, with this many others granted elsewhere in the range.
void range_lock_uncontended(benchmark::State& state) {
  RunLoop loop;
  loop.run(acquire_and_release(state, Mode::exclusive));
}
BENCHMARK(range_lock_uncontended)->Arg(0)->Arg(31)->Arg(127)->Arg(1023);

}  // namespace
}  // namespace fdbnbd
