#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "async/scope.h"
#include "async/task.h"
#include "base/random.h"
#include "block/export.h"
#include "kv/engine.h"
#include "volume/store.h"

// A volume under random requests beside a model of it: a byte array and the states of its blocks. Requests
// that overlap take effect in the order of the calls (block/export.h), so the model is brought up to date at
// the call, and what a read must return is known then.

namespace fdbnbd::model {

enum class Kind : uint8_t {
  memory,   // no faults
  faults,   // commits conflict, fail for a while, have unknown results, take effect late
  crash,    // the process dies or the power fails at any moment
  rocksdb,  // no faults, real threads
  fdb,      // a real cluster, with the faults of its client library where the environment asks for them
};

struct Parameters {
  Kind kind = Kind::memory;
  uint64_t seed = 0;
  uint64_t operations_count = 0;
};

// How the world gets its engines.
struct EngineSource {
  // Opens the store, again after close_engine().
  std::function<Result<kv::Engine*>()> open;
  // What the keys of the store begin with.
  std::string key_prefix;
  std::function<void()> close;
  // Sets this round's faults, or none; only kinds faults and crash.
  std::function<void(bool)> set_faults;
  // The engine fails from now on. What may be lost is what was not flushed.
  std::function<void(bool power_loss)> crash;
};

class World {
 public:
  World(Executor& executor, EngineSource source, Parameters parameters);

  // Whether everything was as the model says; the first difference is printed.
  Task<bool> run();

 private:
  // What a block held after each change since the last quiet moment, for the verdict after a crash.
  struct Change {
    std::vector<uint8_t> content;
    bool acknowledged = false;
    bool flushed = false;
  };
  enum class State : uint8_t { absent, data, zero };

  Task<bool> open_store();
  Task<void> close_store();
  Task<void> round();
  Task<void> crash_round();
  Task<void> connection(uint64_t operations_count, uint64_t limit_bytes);
  Task<void> crash_soon();
  Task<void> resize_meanwhile(uint64_t size_bytes);
  Task<void> quiet_moment();
  Task<void> verify_all();
  Task<void> verify_after_crash();

  Task<void> do_read(uint64_t offset, uint64_t length);
  Task<void> do_write(uint64_t offset, uint64_t length);
  Task<void> do_clear(uint64_t offset, uint64_t length);
  Task<void> do_flush();

  std::vector<std::byte> random_bytes(uint64_t length);
  void model_write(uint64_t offset, const std::vector<std::byte>& data);
  void model_clear(uint64_t offset, uint64_t length, State target);
  void model_resize(uint64_t size_bytes);
  // The changes that the request just applied to the model made; acknowledged or dropped later.
  std::vector<std::pair<uint64_t, size_t>> note_changes(uint64_t offset, uint64_t length);
  void acknowledge(const std::vector<std::pair<uint64_t, size_t>>& changes, const Result<void>& result);
  void difference(const std::string& what);
  bool failed() const { return !difference_.empty(); }

  Executor& executor_;
  EngineSource source_;
  const Parameters parameters_;
  Random random_;
  kv::Engine* engine_ = nullptr;
  std::unique_ptr<volume::Store> store_;
  std::vector<std::shared_ptr<block::Export>> sessions_;
  uint32_t block_bytes_ = 4096;
  std::string name_ = "disk";

  std::vector<uint8_t> bytes_;
  std::vector<State> states_;
  std::vector<std::deque<Change>> changes_;  // per block; only in crash rounds
  std::vector<uint8_t> base_;                // at the start of the crash round
  bool noting_changes_ = false;
  bool crashed_ = false;

  uint64_t operations_done_ = 0;
  std::string difference_;
};

}  // namespace fdbnbd::model
