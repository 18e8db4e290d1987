#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "async/task.h"
#include "base/result.h"
#include "kv/engine.h"
#include "volume/graph_check.h"
#include "volume/keys.h"
#include "volume/layer_check.h"
#include "volume/open_snapshots.h"
#include "volume/open_volumes.h"
#include "volume/record_reader.h"
#include "volume/records.h"
#include "volume/store.h"
#include "volume/vacancy.h"

namespace fdbnbd::volume {

// Mends what follows from what is whole (docs/architecture.md, "Check and repair"). Every change is one
// transaction that reads serializably what it relies on. On the home executor's thread.
class Repair {
 public:
  // All outlive it.
  Repair(RecordReader& records, OpenVolumes& open_volumes, const OpenSnapshots& open_snapshots)
      : records_(records),
        keys_(records.keys()),
        open_volumes_(open_volumes),
        open_snapshots_(open_snapshots) {}

  // What was mended, and what could have been but for somebody who uses it. Jobs that it leaves are to be
  // taken up. Once.
  Task<Result<std::vector<CheckFinding>>> run();

 private:
  Task<Result<void>> mend_graph();
  // Returns how many findings it mends: 0 where none is left that it can.
  Task<Result<size_t>> mend_graph_in(kv::Transaction& transaction, const std::set<LayerId>& strays);

  Task<Result<void>> mend_usage();

  // A layer that lacks bitmaps of extents that it has blocks of.
  struct Gap {
    LayerId layer;
    LayerRecord record;
    std::vector<uint64_t> extents;
  };
  // Who is above a layer, as of one instant.
  struct Readers {
    std::map<VolumeId, std::string> volumes;  // with their names
    std::vector<LayerId> layers;              // that layer and all that stand on it
    bool has_open_snapshot = false;
  };
  // No volume that reads a layer is open here, nor can be, as long as this lives.
  struct Quiet {
    std::vector<OpenVolumes::Reservation> reservations;
    std::map<VolumeId, Vacancy> vacancies;  // that no other server has them open
  };
  Task<Result<void>> mend_bitmaps();
  // Fails with who stands in the way.
  Task<Result<Quiet>> keep_closed(const Readers& readers);
  Task<Result<std::optional<std::string>>> derive_bitmap(const Gap& gap, uint64_t extent_index);
  LayerScan scan_of(const Gap& gap) const;
  Task<Result<void>> mend_gap(const GraphRows& graph, const Gap& gap);
  Readers find_readers(const GraphRows& graph, LayerId layer) const;
  struct GapExtent {
    const Gap& gap;
    const Readers& readers;
    const std::map<VolumeId, Vacancy>& vacancies;
    uint64_t extent_index;
    std::string bitmap;  // as the blocks say
  };
  Task<Result<bool>> mend_extent_in(kv::Transaction& transaction, const GapExtent& extent);
  Task<Result<bool>> has_data_below(kv::Transaction& transaction, LayerRecord record, uint64_t extent_index);

  void mended(CheckFinding finding);

  RecordReader& records_;
  const KeySpace& keys_;
  OpenVolumes& open_volumes_;
  const OpenSnapshots& open_snapshots_;
  std::vector<CheckFinding> findings_;
};

}  // namespace fdbnbd::volume
