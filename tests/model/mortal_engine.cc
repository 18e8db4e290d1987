#include "mortal_engine.h"

#include <optional>
#include <string>
#include <utility>

namespace fdbnbd::model {

namespace {

tl::unexpected<Error> dead() {
  return fail(Errc::io, "the process is dead");
}

}  // namespace

void MortalEngine::die_at(uint64_t call, bool when_done, std::function<void()> on_death) {
  calls_left_ = call;
  when_done_ = when_done;
  on_death_ = std::move(on_death);
}

void MortalEngine::die() {
  if (is_dead_) return;
  is_dead_ = true;
  if (on_death_) on_death_();
}

bool MortalEngine::is_last_call() {
  return calls_left_ > 0 && --calls_left_ == 0;
}

template <typename T>
Task<Result<T>> MortalEngine::run(Task<Result<T>> call) {
  const bool is_last = is_last_call();
  if (is_last && !when_done_) die();
  if (is_dead_) co_return dead();
  Result<T> result = co_await std::move(call);
  if (is_last) die();
  if (is_dead_) co_return dead();
  co_return result;
}

class MortalTransaction final : public kv::Transaction {
 public:
  MortalTransaction(MortalEngine& engine, std::unique_ptr<kv::Transaction> inner)
      : engine_(engine), inner_(std::move(inner)) {}

  void set_background() override { inner_->set_background(); }
  Task<Result<kv::Version>> read_version() override { return engine_.run(inner_->read_version()); }
  void set_read_version(kv::Version version) override { inner_->set_read_version(version); }
  bool use_recent_version() override { return inner_->use_recent_version(); }
  Task<Result<std::optional<std::string>>> get(std::string_view key, kv::Isolation isolation) override {
    return engine_.run(inner_->get(key, isolation));
  }
  Task<Result<kv::RangeResult>> get_range(kv::KeyRange range, kv::RangeOptions options,
                                          kv::Isolation isolation) override {
    return engine_.run(inner_->get_range(range, options, isolation));
  }
  void set(std::string_view key, std::string_view value) override { inner_->set(key, value); }
  void clear(std::string_view key) override { inner_->clear(key); }
  void clear_range(kv::KeyRange range) override { inner_->clear_range(range); }
  void bit_or(std::string_view key, std::string_view operand) override { inner_->bit_or(key, operand); }
  void bit_and(std::string_view key, std::string_view operand) override { inner_->bit_and(key, operand); }
  void disable_write_conflicts() override { inner_->disable_write_conflicts(); }
  void add_read_conflict(kv::KeyRange range) override { inner_->add_read_conflict(range); }
  uint64_t mutation_bytes() const override { return inner_->mutation_bytes(); }
  Task<void> await_turn() override { return inner_->await_turn(); }
  Task<Result<kv::Version>> commit() override { return engine_.run(inner_->commit()); }

 private:
  MortalEngine& engine_;
  const std::unique_ptr<kv::Transaction> inner_;
};

std::unique_ptr<kv::Transaction> MortalEngine::begin(Executor& executor) {
  return std::make_unique<MortalTransaction>(*this, engine_.begin(executor));
}

Task<Result<void>> MortalEngine::read(Executor& executor, const kv::BulkRead& request, kv::RowSink& sink) {
  return run(engine_.read(executor, request, sink));
}

Task<Result<void>> MortalEngine::sync(Executor& executor) {
  return run(engine_.sync(executor));
}

}  // namespace fdbnbd::model
