#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "async/executor.h"
#include "async/task.h"
#include "base/random.h"
#include "base/result.h"
#include "kv/engine.h"
#include "kv/retry.h"
#include "volume/keys.h"
#include "volume/known_snapshots.h"
#include "volume/receipts.h"
#include "volume/records.h"
#include "volume/store.h"

namespace fdbnbd::volume {

// The records of one volume.
struct VolumeRecords {
  VolumeRecord volume;
  FenceRecord fence;
};

struct SnapshotRow {
  std::string name;  // without the volume's
  SnapshotRecord record;
};

struct FoundSnapshot {
  VolumeId volume;
  SnapshotRecord record;
};

// The record under `key`, where there is one. corruption, newer_format.
template <typename Record>
Task<Result<std::optional<Record>>> get_record(kv::Transaction& transaction, std::string key,
                                               kv::Isolation isolation) {
  auto value = co_await transaction.get(key, isolation);
  if (!value) co_return propagate(value);
  if (!value->has_value()) co_return std::optional<Record>();
  ASSIGN_OR_CO_RETURN(Record record, Record::decode(**value));
  co_return std::optional<Record>(std::move(record));
}

// What a transaction that reads many rows conflicts with.
enum class RowConflicts : uint8_t {
  of_each,
  // Also with new rows between neighbours that it reads: one range for all of them, which costs the cluster
  // as little as one row.
  of_runs,
};

// Finds and decodes the records of a store. What takes a transaction reads serializably, so that the
// transaction commits only where it still holds; the rest runs a transaction of its own. Names in arguments
// are for the errors: not_found where there is no such thing, corruption, newer_format. On the executor's
// thread.
class RecordReader {
 public:
  // All outlive the reader. `seed` is for the back-off.
  RecordReader(kv::Engine& engine, Executor& executor, const KeySpace& keys, uint64_t seed)
      : engine_(engine),
        executor_(executor),
        keys_(keys),
        random_(seed),
        receipts_(engine, executor, keys, random_.next()) {}

  kv::Engine& engine() const { return engine_; }
  Executor& executor() const { return executor_; }
  const KeySpace& keys() const { return keys_; }

  // Runs a transaction that changes something, once, until it is decided (volume/receipts.h): what `body`
  // gave in the attempt that has happened.
  template <typename T, typename Body>
  Task<Result<T>> decide(Body& body, FirstRead first_read = FirstRead::at_new_version) {
    return receipts_.decide<T>(body, first_read);
  }
  Receipts& receipts() { return receipts_; }
  KnownSnapshots& known_snapshots() { return known_snapshots_; }

  // Whether keys are so many that it is worth a detour not to ask for each by itself.
  bool are_many(size_t keys_count) const;

  // Runs a transaction that only reads, or that may as well happen several times, until it is decided.
  template <typename T, typename Body>
  Task<Result<T>> transact(Body& body) {
    while (true) {
      Result<T> result = co_await kv::transact<T>(engine_, executor_, random_, body);
      if (result || result.error().code != Errc::unknown_result) co_return result;
    }
  }

  // The rows of [begin, end), page by page: not all of one instant.
  Task<Result<std::vector<kv::KeyValue>>> read_all(std::string begin, std::string end);

  // A volume by its name.
  Task<Result<VolumeId>> find(kv::Transaction& transaction, const std::string& name);
  Task<Result<VolumeId>> find(const std::string& name);
  // exists where a volume has the name.
  Task<Result<void>> check_unused(kv::Transaction& transaction, const std::string& name);
  // One in the trash is not_found.
  Task<Result<VolumeRecords>> load(kv::Transaction& transaction, VolumeId id, const std::string& name);
  Task<Result<VolumeRecords>> load(VolumeId id, const std::string& name);
  // Of a volume in the trash.
  Task<Result<VolumeRecords>> load_trashed(kv::Transaction& transaction, VolumeId id,
                                           const std::string& name);
  // Empty where it has none.
  Task<Result<std::string>> name_of(VolumeId id);

  // In the order in which they were taken.
  Task<Result<std::vector<SnapshotRow>>> read_snapshots(kv::Transaction& transaction, VolumeId id,
                                                        const std::string& name);
  // Damaged ones are left out; check tells.
  Task<Result<std::map<VolumeId, std::vector<SnapshotInfo>>>> read_all_snapshots();
  Task<Result<FoundSnapshot>> find_snapshot(kv::Transaction& transaction, const SnapshotName& name);
  Task<Result<FoundSnapshot>> find_snapshot(const SnapshotName& name);

  Task<Result<std::optional<LayerRecord>>> read_layer(kv::Transaction& transaction, LayerId layer);
  // At most two, which is enough to know.
  Task<Result<std::vector<LayerId>>> read_children(kv::Transaction& transaction, LayerId layer);
  // Blocks with data that are seen through `top`, which nobody has open here.
  Task<Result<uint64_t>> count_data_blocks(LayerId top, const VolumeRecord& volume);

  // Reads many keys at once.
  using Values = std::vector<std::optional<std::string>>;
  Task<Result<Values>> read_points(kv::Transaction& transaction, const std::vector<std::string>& keys);
  // The same for keys of one kind of which each volume has one: many of them are found faster in a range with
  // others than one by one.
  Task<Result<Values>> read_rows(kv::Transaction& transaction, const std::vector<std::string>& keys,
                                 RowConflicts conflicts = RowConflicts::of_each);

 private:
  Task<Result<VolumeRecords>> load_any(kv::Transaction& transaction, VolumeId id, const std::string& name);

  kv::Engine& engine_;
  Executor& executor_;
  const KeySpace& keys_;
  Random random_;
  Receipts receipts_;
  KnownSnapshots known_snapshots_;
};

// not_found.
Error no_volume(const std::string& name);

}  // namespace fdbnbd::volume
