#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/function.h"
#include "mortal_engine.h"
#include "world.h"

// Several volumes with snapshots and clones, under random requests and verbs, beside a model of them: byte
// arrays, and a map of snapshots for each. Reads are checked between rounds for what is written meanwhile,
// and at any time for snapshots, which do not change. The server dies at any call to its engine, also in the
// middle of a verb; where the kind is crash the power may fail, too.

namespace fdbnbd::model {

class SnapshotWorld {
 public:
  SnapshotWorld(Executor& executor, EngineSource source, Parameters parameters);

  // Whether everything was as the model says; the first difference is printed.
  Task<bool> run();

 private:
  using Bytes = std::vector<uint8_t>;

  // What a block held after a change of this round.
  struct Change {
    Bytes content;
    uint64_t called_at = 0;                   // ticks
    std::optional<uint64_t> acknowledged_at;  // ticks
    bool flushed = false;
  };
  struct Disk {
    std::string name;
    Bytes bytes;
    std::map<std::string, std::shared_ptr<const Bytes>> snapshots;
    std::shared_ptr<block::Export> session;
    Bytes base;                               // at the beginning of the round
    std::vector<std::deque<Change>> changes;  // per block, in the order of the calls
  };
  using Disks = std::map<std::string, Disk>;
  struct OpenSnapshot {
    std::string name;
    std::shared_ptr<block::Export> session;
    std::shared_ptr<const Bytes> bytes;
  };
  // A group snapshot of this round.
  struct Taken {
    std::vector<std::pair<std::string, std::string>> names;  // volume and snapshot
    uint64_t called_at = 0;
    std::optional<uint64_t> done_at;  // not at all where it was not answered
  };

  Task<bool> open_store();
  Task<void> close_store();
  Task<void> open_sessions();
  Task<void> round();
  Task<void> writer(uint64_t requests_count);
  Task<void> change_once(Disk& disk);
  Task<void> read_snapshots(uint64_t requests_count);
  Task<void> take_snapshots(uint64_t count);
  Task<void> flush();
  void crash_at_some_call(bool power_loss);
  bool loses_power();
  Task<void> after_crash();
  Task<void> adopt_contents(Disk& disk);
  Task<void> adopt_snapshots();
  Task<void> verb();
  Task<void> verb_and_crash();
  // What the disks are to be when the call that follows has succeeded.
  void attempt(FunctionRef<void(Disks&)> change);
  // Whether the call has succeeded; a difference where it has not, unless the server died.
  template <typename T>
  bool took_effect(const Result<T>& result, std::string_view verb);
  // How the store differs from that; empty where it does not.
  Task<std::string> compare(const Disks& expected);
  Task<std::string> compare_bytes(std::string name, const Bytes& expected);
  Task<void> let_sessions_end();
  Task<void> verb_clone();
  Task<void> verb_flatten();
  Task<void> verb_rollback();
  Task<void> roll_back_under_session(Disk& disk, std::string full_name, Bytes bytes);
  Task<void> verb_remove_snapshot();
  Task<void> verb_remove_volume();
  Task<void> verb_trash();
  Task<void> verb_group();
  Task<void> verb_resize();
  Task<void> create_volume();
  Task<void> verify_all();
  Task<void> verify_live(std::string name, const Bytes& expected);
  Task<void> verify_disk(std::string name, const Bytes& expected);
  // Some two points of the disk.
  Task<void> verify_diff(const Disk& disk);
  Task<void> end_with_nothing();

  // The disk's bytes as they are read, or a difference.
  Task<Bytes> read_disk(block::Export& disk, std::string name);
  // Whether `content` is what the block may hold: the last change that had to be there, or one behind it.
  bool is_allowed(const Disk& disk, uint64_t block, const uint8_t* content, std::optional<uint64_t> from_tick,
                  uint64_t to_tick) const;
  Bytes block_of(const Bytes& bytes, uint64_t block) const;
  uint64_t blocks_count(const Bytes& bytes) const;
  uint64_t used_bytes(const Bytes& bytes) const;
  Disk* any_disk();
  uint64_t any_size_bytes();
  void begin_round(Disk& disk);
  bool is_snapshot_open(const std::string& full_name) const;
  void difference(const std::string& what);
  bool failed() const { return !difference_.empty(); }

  Executor& executor_;
  EngineSource source_;
  const Parameters parameters_;
  Random random_;
  std::optional<MortalEngine> engine_;
  volume::Store::Options store_options_;
  std::unique_ptr<volume::Store> store_;
  uint32_t block_bytes_ = 4096;
  Disks disks_;
  std::vector<OpenSnapshot> open_snapshots_;
  std::vector<Taken> taken_;
  uint64_t tick_ = 0;
  uint64_t names_count_ = 0;
  bool crashed_ = false;
  bool in_crash_round_ = false;
  // What a verb under way is to make of the disks, where it may be interrupted.
  bool notes_attempts_ = false;
  std::optional<Disks> attempted_;

  uint64_t operations_done_ = 0;
  std::string difference_;
};

}  // namespace fdbnbd::model
