#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/result.h"
#include "control/client.h"
#include "volume/store.h"

namespace fdbnbd::cli {

// What differs between two points of a volume, asked for page by page. Ranges that touch and are of one kind
// are one.
class DiffReader {
 public:
  struct Points {
    std::string name;                 // VOL, or VOL@SNAP
    std::optional<std::string> from;  // a snapshot, without the volume's name
  };

  // Asks for the first page, from `begin_bytes` on.
  static Result<DiffReader> open(control::Client client, Points points, uint64_t begin_bytes = 0);

  uint64_t from_size_bytes() const { return page_.from_size_bytes; }
  uint64_t size_bytes() const { return page_.to_size_bytes; }
  uint32_t block_bytes() const { return page_.block_bytes; }

  // The next range; nothing behind the last one.
  Result<std::optional<volume::DiffRange>> next();

 private:
  DiffReader(control::Client client, Points points)
      : client_(std::move(client)), points_(std::move(points)) {}

  Result<void> ask(uint64_t begin_bytes);
  // As next(), but for joining what touches.
  Result<std::optional<volume::DiffRange>> next_part();

  control::Client client_;
  const Points points_;
  volume::DiffPage page_;
  size_t index_ = 0;                          // of the range of page_ that is next
  std::optional<volume::DiffRange> pending_;  // behind the one that was given last
};

}  // namespace fdbnbd::cli
