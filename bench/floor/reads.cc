#include <future>
#include <list>
#include <memory>

#include "base/limits.h"
#include "floor.h"

namespace fdbnbd::floor {

namespace {

using kv::fdb::StreamingMode;

// Requests in a closed loop; each reads blocks that follow each other, at a version that is known. All of it
// runs in callbacks, on the library's thread: going over to another one and back costs more than a read does.
class Reader {
 public:
  template <typename NextBlock>
  Reader(Floor& floor, uint64_t request_blocks, NextBlock next_block)
      : floor_(floor), request_blocks_(request_blocks), next_block_(std::move(next_block)) {}

  // Waits until all has ended.
  void run() {
    ask_version();
    ended_.get_future().wait();
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

  class VersionAnswer final : public Waiting {
   public:
    explicit VersionAnswer(Reader& reader) : reader_(reader) {}
    void on_ready() override { reader_.on_version(); }

   private:
    Reader& reader_;
  };

  struct Request {
    Reader& reader;
    Clock::time_point started_at;
    std::shared_ptr<FDBTransaction> transaction;
    uint64_t rows_count = 0;
    size_t parts_left = 0;
    std::list<Part> parts;
    std::list<Request>::iterator self;
  };

  std::shared_ptr<FDBTransaction> begin() { return {floor_.begin(), floor_.api.transaction_destroy}; }
  void ask_version();
  void on_version();
  // At the version that is known, shared with as many reads as share one in the server.
  std::shared_ptr<FDBTransaction> transaction();
  void start_request();
  void get(Request& request, uint64_t block);
  void get_range(Request& request, uint64_t first_block, uint64_t blocks_count);
  void on_ready(Request& request, Part& part);
  void finish(Request& request);
  void end_if_done();

  Floor& floor_;
  const uint64_t request_blocks_;
  const std::function<std::optional<uint64_t>()> next_block_;
  int64_t version_ = 0;
  Clock::time_point version_at_{};
  VersionAnswer version_answer_{*this};
  std::shared_ptr<FDBTransaction> version_transaction_;  // where a version is being asked for
  std::shared_ptr<FDBTransaction> transaction_;
  uint32_t transaction_reads_left_ = 0;
  std::list<Request> requests_;
  std::promise<void> ended_;
  uint64_t sum_ = 0;  // of bytes, so that they are looked at
};

void Reader::ask_version() {
  if (version_transaction_ != nullptr) return;
  version_transaction_ = begin();
  call_back(floor_.api, version_answer_, floor_.api.transaction_get_read_version(version_transaction_.get()));
}

void Reader::on_version() {
  const bool is_first = version_ == 0;
  const bool is_given = floor_.api.future_get_int64(version_answer_.future, &version_) == 0;
  floor_.api.future_destroy(version_answer_.future);
  version_transaction_.reset();
  if (!is_given) return ask_version();
  version_at_ = Clock::now();
  transaction_.reset();
  for (size_t i = 0; is_first && i < floor_.settings.depth; ++i) start_request();
  end_if_done();
}

std::shared_ptr<FDBTransaction> Reader::transaction() {
  if (Clock::now() - version_at_ > kVersionAge) ask_version();
  if (transaction_ == nullptr || transaction_reads_left_ == 0) {
    floor_.count_transaction();
    transaction_ = begin();
    floor_.api.transaction_set_read_version(transaction_.get(), version_);
    transaction_reads_left_ = limits::kFdbReadsPerTransaction;
  }
  --transaction_reads_left_;
  return transaction_;
}

void Reader::start_request() {
  const std::optional<uint64_t> first_block = next_block_();
  if (!first_block) return;
  requests_.push_back({*this, Clock::now(), transaction(), 0, 0, {}, {}});
  Request& request = requests_.back();
  request.self = std::prev(requests_.end());
  if (request_blocks_ == 1) return get(request, *first_block);
  for (uint64_t done = 0; done < request_blocks_; done += kBlocksPerRange)
    get_range(request, *first_block + done, std::min(kBlocksPerRange, request_blocks_ - done));
}

void Reader::get(Request& request, uint64_t block) {
  const std::string key = block_key(block);
  ++request.parts_left;
  call_back(
      floor_.api, request.parts.emplace_back(request, block, 1),
      floor_.api.transaction_get(request.transaction.get(), bytes_of(key), length_of(key), /*snapshot=*/1));
}

void Reader::get_range(Request& request, uint64_t first_block, uint64_t blocks_count) {
  const std::string begin = block_key(first_block);
  const std::string end = block_key(first_block + blocks_count - 1) + '\0';
  ++request.parts_left;
  call_back(floor_.api, request.parts.emplace_back(request, first_block, blocks_count),
            floor_.api.transaction_get_range(request.transaction.get(), bytes_of(begin), length_of(begin), 0,
                                             1, bytes_of(end), length_of(end), 0, 1, 0, 0,
                                             static_cast<int>(StreamingMode::want_all), 0, 1, 0));
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
  if (request.rows_count == request_blocks_) {
    floor_.count_request(request.started_at, request_blocks_ * kBlockBytes);
  } else if (floor_.figures.retries_count == 0) {
    die("a block is missing: fill first");
  } else {
    transaction_.reset();
    ask_version();
  }
  requests_.erase(request.self);
  start_request();
  end_if_done();
}

void Reader::end_if_done() {
  // The reader may be gone then.
  if (requests_.empty() && version_transaction_ == nullptr) ended_.set_value();
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
