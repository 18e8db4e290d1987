#include <deque>
#include <list>

#include "floor.h"

namespace fdbnbd::floor {

namespace {

using kv::fdb::ConflictRangeType;
using kv::fdb::TransactionOption;

struct Request {
  Clock::time_point started_at;
  uint64_t pieces_left;
};

// Blocks that follow each other, at most one transaction full.
struct Piece {
  Request* request;
  uint64_t first_block;
  uint64_t blocks_count;
};

// Requests in a closed loop, group-committed as the server does it: what queued while earlier transactions
// were under way goes together.
class Writer {
 public:
  // `next_block` gives the first block of the next request; no more once it returns nothing.
  template <typename NextBlock>
  Writer(Floor& floor, uint64_t request_blocks, NextBlock next_block)
      : floor_(floor), request_blocks_(request_blocks), next_block_(std::move(next_block)) {}

  void run() {
    for (size_t i = 0; i < floor_.settings.depth; ++i) start_request();
    pump();
    while (transactions_count_ > 0) floor_.completions.run_ready();
  }

 private:
  class Commit final : public Waiting {
   public:
    Commit(Writer& the_writer, std::vector<Piece> the_pieces)
        : writer(the_writer), pieces(std::move(the_pieces)) {}

    void on_ready() override;

    Writer& writer;
    const std::vector<Piece> pieces;
    FDBTransaction* transaction = nullptr;
    bool is_asking_version = false;
    std::list<Commit>::iterator self{};
  };

  void start_request();
  void finish_request(Request* request);
  void pump();
  void begin(Commit& commit);
  void send(Commit& commit);
  // False where it has to be done again.
  bool is_done(Commit& commit);
  void on_ready(Commit& commit);

  Floor& floor_;
  const uint64_t request_blocks_;
  const std::function<std::optional<uint64_t>()> next_block_;
  Data data_;
  std::deque<Piece> queue_;
  std::list<Commit> commits_;
  size_t transactions_count_ = 0;
  std::string fence_end_ = std::string(kFenceKey) + '\0';
};

void Writer::start_request() {
  const std::optional<uint64_t> first_block = next_block_();
  if (!first_block) return;
  const uint64_t most = floor_.settings.batch_blocks;
  const uint64_t pieces_count = (request_blocks_ + most - 1) / most;
  auto* const request = new Request{Clock::now(), pieces_count};
  for (uint64_t done = 0; done < request_blocks_; done += most)
    queue_.push_back({request, *first_block + done, std::min(most, request_blocks_ - done)});
}

void Writer::finish_request(Request* request) {
  floor_.count_request(request->started_at, request_blocks_ * kBlockBytes);
  delete request;
  start_request();
}

void Writer::pump() {
  while (!queue_.empty() && transactions_count_ < kTransactionsInFlight) {
    std::vector<Piece> pieces;
    uint64_t blocks_count = 0;
    while (!queue_.empty() && blocks_count + queue_.front().blocks_count <= floor_.settings.batch_blocks) {
      blocks_count += queue_.front().blocks_count;
      pieces.push_back(queue_.front());
      queue_.pop_front();
    }
    ++transactions_count_;
    commits_.emplace_back(*this, std::move(pieces));
    commits_.back().self = std::prev(commits_.end());
    begin(commits_.back());
  }
}

void Writer::begin(Commit& commit) {
  floor_.count_transaction();
  commit.transaction = floor_.begin();
  if (floor_.settings.version_source == VersionSource::own) {
    commit.is_asking_version = true;
    floor_.completions.add(floor_.api, commit, floor_.api.transaction_get_read_version(commit.transaction));
    return;
  }
  floor_.api.transaction_set_read_version(commit.transaction, floor_.version());
  send(commit);
}

void Writer::send(Commit& commit) {
  const kv::fdb::Api& api = floor_.api;
  api.transaction_add_conflict_range(commit.transaction, bytes_of(kFenceKey), length_of(kFenceKey),
                                     bytes_of(fence_end_), length_of(fence_end_),
                                     static_cast<int>(ConflictRangeType::read));
  for (const Piece& piece : commit.pieces) {
    for (uint64_t i = 0; i < piece.blocks_count; ++i) {
      const std::string key = block_key(piece.first_block + i);
      api.transaction_set_option(commit.transaction,
                                 static_cast<int>(TransactionOption::next_write_no_write_conflict_range),
                                 nullptr, 0);
      api.transaction_set(commit.transaction, bytes_of(key), length_of(key), data_.value(),
                          static_cast<int>(kValueBytes));
    }
  }
  floor_.completions.add(api, commit, api.transaction_commit(commit.transaction));
}

void Writer::Commit::on_ready() {
  writer.on_ready(*this);
}

bool Writer::is_done(Commit& commit) {
  if (floor_.api.future_get_error(commit.future) != 0) return false;
  int64_t version = 0;
  floor_.api.transaction_get_committed_version(commit.transaction, &version);
  floor_.on_committed(version);
  return true;
}

void Writer::on_ready(Commit& commit) {
  if (commit.is_asking_version && floor_.api.future_get_error(commit.future) == 0) {
    floor_.api.future_destroy(commit.future);
    commit.is_asking_version = false;
    send(commit);
    return;
  }
  const bool done = !commit.is_asking_version && is_done(commit);
  floor_.api.future_destroy(commit.future);
  floor_.api.transaction_destroy(commit.transaction);
  if (!done) {
    ++floor_.figures.retries_count;
    floor_.refresh_version();
    begin(commit);
    return;
  }
  for (const Piece& piece : commit.pieces)
    if (--piece.request->pieces_left == 0) finish_request(piece.request);
  --transactions_count_;
  commits_.erase(commit.self);
  pump();
}

}  // namespace

void fill(Floor& floor) {
  uint64_t next = 0;
  Writer(floor, kStreamRequestBlocks, [&]() -> std::optional<uint64_t> {
    if (next >= floor.settings.blocks_count) return std::nullopt;
    return std::exchange(next, next + kStreamRequestBlocks);
  }).run();
}

void write_blocks(Floor& floor) {
  RandomBlocks random(floor.settings.blocks_count);
  Writer(floor, 1, [&]() -> std::optional<uint64_t> {
    if (floor.is_over()) return std::nullopt;
    return random.next();
  }).run();
}

void write_stream(Floor& floor) {
  uint64_t next = 0;
  Writer(floor, kStreamRequestBlocks, [&]() -> std::optional<uint64_t> {
    if (floor.is_over()) return std::nullopt;
    return std::exchange(next, (next + kStreamRequestBlocks) % floor.settings.blocks_count);
  }).run();
}

}  // namespace fdbnbd::floor
