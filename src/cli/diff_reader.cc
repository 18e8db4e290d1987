#include "cli/diff_reader.h"

#include <utility>

#include "control/messages.h"

namespace fdbnbd::cli {

Result<DiffReader> DiffReader::open(control::Client client, Points points, uint64_t begin_bytes) {
  DiffReader reader(std::move(client), std::move(points));
  RETURN_IF_ERROR(reader.ask(begin_bytes));
  ASSIGN_OR_RETURN(reader.pending_, reader.next_part());
  return reader;
}

Result<void> DiffReader::ask(uint64_t begin_bytes) {
  ASSIGN_OR_RETURN(const std::string result,
                   client_.call(control::DiffRequest{
                       .name = points_.name, .from = points_.from, .begin_bytes = begin_bytes}));
  ASSIGN_OR_RETURN(page_, control::read_diff(result));
  index_ = 0;
  return {};
}

Result<std::optional<volume::DiffRange>> DiffReader::next_part() {
  while (index_ == page_.ranges.size()) {
    if (page_.end_bytes >= page_.to_size_bytes) return std::nullopt;
    RETURN_IF_ERROR(ask(page_.end_bytes));
  }
  return page_.ranges[index_++];
}

Result<std::optional<volume::DiffRange>> DiffReader::next() {
  std::optional<volume::DiffRange> range = std::exchange(pending_, std::nullopt);
  while (range) {
    ASSIGN_OR_RETURN(pending_, next_part());
    if (!pending_ || pending_->kind != range->kind ||
        pending_->offset_bytes != range->offset_bytes + range->length_bytes) {
      break;
    }
    range->length_bytes += pending_->length_bytes;
  }
  return range;
}

}  // namespace fdbnbd::cli
