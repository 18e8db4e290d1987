#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

#include "kv/engine.h"

// An engine in which something happens just when a commit does or waits for its turn, and which counts its
// transactions.

namespace fdbnbd::volume {

class InterposedEngine final : public kv::Engine {
 public:
  enum class Outcome : uint8_t {
    as_it_is,             // others act just before the commit
    unknown_applied,      // its result is lost, and others act before anybody hears of that
    unknown_not_applied,  // the same, but it has not happened
  };

  // `inner` outlives it.
  explicit InterposedEngine(kv::Engine& inner) : inner_(inner) {}

  // What happens at the next commit that changes a key of this type. `act` may be empty.
  void at_next_commit_of(char key_type, Outcome outcome, std::function<Task<void>()> act) {
    planned_ = Plan{key_type, outcome, std::move(act)};
  }
  bool has_happened() const { return !planned_; }

  // What happens while the next transaction waits for its turn.
  void at_next_turn(std::function<Task<void>()> act) { at_next_turn_ = std::move(act); }

  // Transactions begun since the start, and those that have not ended yet.
  uint64_t begun_count() const { return begun_count_; }
  uint64_t open_count() const { return open_count_; }

  std::string_view name() const override { return inner_.name(); }
  kv::Capabilities capabilities() const override { return inner_.capabilities(); }
  kv::EngineStats stats() const override { return inner_.stats(); }
  std::unique_ptr<kv::Transaction> begin(Executor& executor) override {
    return std::make_unique<Interposed>(*this, inner_.begin(executor));
  }
  Task<Result<void>> read(Executor& executor, const kv::BulkRead& request, kv::RowSink& sink) override {
    return inner_.read(executor, request, sink);
  }
  Task<Result<void>> sync(Executor& executor) override { return inner_.sync(executor); }

 private:
  struct Plan {
    char key_type;
    Outcome outcome;
    std::function<Task<void>()> act;
  };

  class Interposed final : public kv::Transaction {
   public:
    Interposed(InterposedEngine& engine, std::unique_ptr<kv::Transaction> inner)
        : engine_(engine), inner_(std::move(inner)) {
      ++engine_.begun_count_;
      ++engine_.open_count_;
    }
    ~Interposed() override { --engine_.open_count_; }

    void set_background() override { inner_->set_background(); }
    Task<Result<kv::Version>> read_version() override { return inner_->read_version(); }
    void set_read_version(kv::Version version) override { inner_->set_read_version(version); }
    bool use_recent_version() override { return inner_->use_recent_version(); }
    Task<Result<std::optional<std::string>>> get(std::string_view key, kv::Isolation isolation) override {
      return inner_->get(key, isolation);
    }
    Task<Result<kv::RangeResult>> get_range(kv::KeyRange range, kv::RangeOptions options,
                                            kv::Isolation isolation) override {
      return inner_->get_range(range, options, isolation);
    }
    void set(std::string_view key, std::string_view value) override {
      note(key);
      inner_->set(key, value);
    }
    void clear(std::string_view key) override {
      note(key);
      inner_->clear(key);
    }
    void clear_range(kv::KeyRange range) override { inner_->clear_range(range); }
    void bit_or(std::string_view key, std::string_view operand) override { inner_->bit_or(key, operand); }
    void bit_and(std::string_view key, std::string_view operand) override { inner_->bit_and(key, operand); }
    void disable_write_conflicts() override { inner_->disable_write_conflicts(); }
    void add_read_conflict(kv::KeyRange range) override { inner_->add_read_conflict(range); }
    uint64_t mutation_bytes() const override { return inner_->mutation_bytes(); }

    Task<void> await_turn() override {
      if (const auto act = std::exchange(engine_.at_next_turn_, nullptr)) co_await act();
      co_await inner_->await_turn();
    }

    Task<Result<kv::Version>> commit() override {
      if (!is_planned_ || !engine_.planned_) co_return co_await inner_->commit();
      const Plan plan = std::move(*std::exchange(engine_.planned_, std::nullopt));
      if (plan.outcome == Outcome::unknown_applied) {
        auto committed = co_await inner_->commit();
        if (!committed) co_return committed;
      }
      if (plan.act) co_await plan.act();
      if (plan.outcome == Outcome::as_it_is) co_return co_await inner_->commit();
      co_return fail(Errc::unknown_result, "the result was made to be lost");
    }

   private:
    void note(std::string_view key) {
      if (engine_.planned_ && !key.empty() && key.front() == engine_.planned_->key_type) is_planned_ = true;
    }

    InterposedEngine& engine_;
    std::unique_ptr<kv::Transaction> inner_;
    bool is_planned_ = false;
  };

  kv::Engine& inner_;
  std::optional<Plan> planned_;
  std::function<Task<void>()> at_next_turn_;
  uint64_t begun_count_ = 0;
  uint64_t open_count_ = 0;
};

}  // namespace fdbnbd::volume
