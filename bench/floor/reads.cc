#include <list>

#include "floor.h"

namespace fdbnbd::floor {

namespace {

using kv::fdb::StreamingMode;

// Requests in a closed loop; each reads blocks that follow each other, at a version that is known.
class Reader {
 public:
  template <typename NextBlock>
  Reader(Floor& floor, uint64_t request_blocks, NextBlock next_block)
      : floor_(floor), request_blocks_(request_blocks), next_block_(std::move(next_block)) {}

  void run() {
    for (size_t i = 0; i < floor_.settings.depth; ++i) start_request();
    while (!requests_.empty()) floor_.completions.run_ready();
  }

 private:
  struct Request;

  class Part final : public Waiting {
   public:
    Part(Request& the_request, uint64_t the_first_block, uint64_t the_blocks_count)
        : request(the_request), first_block(the_first_block), blocks_count(the_blocks_count) {}
    void on_ready() override { request.reader.on_ready(request, *this); }

    Request& request;
    const uint64_t first_block;
    const uint64_t blocks_count;
  };

  struct Request {
    Reader& reader;
    Clock::time_point started_at;
    FDBTransaction* transaction;
    uint64_t rows_count = 0;
    size_t parts_left = 0;
    std::list<Part> parts;
    std::list<Request>::iterator self;
  };

  void start_request();
  void get(Request& request, uint64_t block);
  void get_range(Request& request, uint64_t first_block, uint64_t blocks_count);
  void on_ready(Request& request, Part& part);
  void finish(Request& request);

  Floor& floor_;
  const uint64_t request_blocks_;
  const std::function<std::optional<uint64_t>()> next_block_;
  std::list<Request> requests_;
  uint64_t sum_ = 0;  // of bytes, so that they are looked at
};

void Reader::start_request() {
  const std::optional<uint64_t> first_block = next_block_();
  if (!first_block) return;
  ++floor_.figures.transactions_count;
  requests_.push_back({*this, Clock::now(), floor_.begin(), 0, 0, {}, {}});
  Request& request = requests_.back();
  request.self = std::prev(requests_.end());
  floor_.api.transaction_set_read_version(request.transaction, floor_.version());
  if (request_blocks_ == 1) return get(request, *first_block);
  for (uint64_t done = 0; done < request_blocks_; done += kBlocksPerRange)
    get_range(request, *first_block + done, std::min(kBlocksPerRange, request_blocks_ - done));
}

void Reader::get(Request& request, uint64_t block) {
  const std::string key = block_key(block);
  ++request.parts_left;
  floor_.completions.add(
      floor_.api, request.parts.emplace_back(request, block, 1),
      floor_.api.transaction_get(request.transaction, bytes_of(key), length_of(key), /*snapshot=*/1));
}

void Reader::get_range(Request& request, uint64_t first_block, uint64_t blocks_count) {
  const std::string begin = block_key(first_block);
  const std::string end = block_key(first_block + blocks_count - 1) + '\0';
  ++request.parts_left;
  floor_.completions.add(floor_.api, request.parts.emplace_back(request, first_block, blocks_count),
                         floor_.api.transaction_get_range(
                             request.transaction, bytes_of(begin), length_of(begin), 0, 1, bytes_of(end),
                             length_of(end), 0, 1, 0, 0, static_cast<int>(StreamingMode::want_all), 0, 1, 0));
}

void Reader::on_ready(Request& request, Part& part) {
  if (floor_.api.future_get_error(part.future) != 0) {
    ++floor_.figures.retries_count;
  } else if (request_blocks_ == 1) {
    fdb_bool_t present = 0;
    const uint8_t* value = nullptr;
    int length = 0;
    floor_.api.future_get_value(part.future, &present, &value, &length);
    if (present == 0) die("a block is missing: fill first");
    sum_ += value[0];
    ++request.rows_count;
  } else {
    const FDBKeyValue* rows = nullptr;
    int rows_count = 0;
    fdb_bool_t more = 0;
    floor_.api.future_get_keyvalue_array(part.future, &rows, &rows_count, &more);
    for (int i = 0; i < rows_count; ++i) sum_ += rows[i].value[0];
    request.rows_count += static_cast<uint64_t>(rows_count);
    // At the border of two shards a reply ends early.
    const auto delivered_count = static_cast<uint64_t>(rows_count);
    if (more != 0 && delivered_count < part.blocks_count)
      get_range(request, part.first_block + delivered_count, part.blocks_count - delivered_count);
  }
  floor_.api.future_destroy(part.future);
  if (--request.parts_left == 0) finish(request);
}

void Reader::finish(Request& request) {
  const std::chrono::duration<double, std::micro> took = Clock::now() - request.started_at;
  if (request.rows_count == request_blocks_) {
    floor_.figures.latencies_us.push_back(took.count());
    ++floor_.figures.requests_count;
    floor_.figures.bytes += request_blocks_ * kBlockBytes;
  } else if (floor_.figures.retries_count == 0) {
    die("a block is missing: fill first");
  } else {
    floor_.refresh_version();
  }
  floor_.api.transaction_destroy(request.transaction);
  requests_.erase(request.self);
  start_request();
}

}  // namespace

void read_blocks(Floor& floor) {
  RandomBlocks random(floor.settings.blocks_count);
  Reader(floor, 1, [&]() -> std::optional<uint64_t> {
    if (floor.is_over()) return std::nullopt;
    return random.next();
  }).run();
}

void read_stream(Floor& floor) {
  uint64_t next = 0;
  Reader(floor, kStreamRequestBlocks, [&]() -> std::optional<uint64_t> {
    if (floor.is_over()) return std::nullopt;
    return std::exchange(next, (next + kStreamRequestBlocks) % floor.settings.blocks_count);
  }).run();
}

}  // namespace fdbnbd::floor
