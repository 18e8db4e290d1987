#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "kv/engine.h"

namespace fdbnbd::model {

// An engine as a process has it that dies at a chosen call: from then on every call fails with Errc::io,
// those under way included, and nothing reaches the store any more. What was under way has happened or not.
// All calls on one thread.
class MortalEngine final : public kv::Engine {
 public:
  // `engine` outlives it.
  explicit MortalEngine(kv::Engine& engine) : engine_(engine) {}

  // The engine dies at call number `call` from now on (from 1): before that call does anything, or when it is
  // done and before its result is known. Then `on_death` runs.
  void die_at(uint64_t call, bool when_done, std::function<void()> on_death);
  // Now, if it has not died yet.
  void die();
  bool is_dead() const { return is_dead_; }

  std::string_view name() const override { return engine_.name(); }
  kv::Capabilities capabilities() const override { return engine_.capabilities(); }
  kv::EngineStats stats() const override { return engine_.stats(); }
  std::unique_ptr<kv::Transaction> begin(Executor& executor) override;
  Task<Result<void>> read(Executor& executor, const kv::BulkRead& request, kv::RowSink& sink) override;
  Task<Result<void>> sync(Executor& executor) override;

 private:
  friend class MortalTransaction;

  // Counts a call: whether it is the one at which the engine dies.
  bool is_last_call();
  // `call` with what the engine's life makes of it.
  template <typename T>
  Task<Result<T>> run(Task<Result<T>> call);

  kv::Engine& engine_;
  uint64_t calls_left_ = 0;  // 0: it does not die of calls
  bool when_done_ = false;
  bool is_dead_ = false;
  std::function<void()> on_death_;
};

}  // namespace fdbnbd::model
