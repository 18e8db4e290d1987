#include "floor.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <thread>

namespace fdbnbd::floor {

using kv::fdb::Api;

void call_back(const Api& api, Waiting& waiting, FDBFuture* future) {
  waiting.future = future;
  const auto on_ready = [](FDBFuture*, void* self) { static_cast<Waiting*>(self)->on_ready(); };
  if (api.future_set_callback(future, on_ready, &waiting) != 0) die("a callback is refused");
}

void Completions::on_ready(FDBFuture*, void* entry) {
  const std::unique_ptr<Entry> owned(static_cast<Entry*>(entry));
  Completions& completions = *owned->completions;
  const std::lock_guard lock(completions.mutex_);
  completions.ready_.push_back(owned->waiting);
  if (completions.ready_.size() == 1) completions.added_.notify_one();
}

void Completions::add(const Api& api, Waiting& waiting, FDBFuture* future) {
  waiting.future = future;
  if (api.future_set_callback(future, &on_ready, new Entry{this, &waiting}) != 0)
    die("a callback is refused");
}

void Completions::run_ready() {
  std::vector<Waiting*> ready;
  {
    std::unique_lock lock(mutex_);
    added_.wait(lock, [this] { return !ready_.empty(); });
    ready.swap(ready_);
  }
  for (Waiting* waiting : ready) waiting->on_ready();
}

void Figures::print(const Settings& settings) {
  std::ranges::sort(latencies_us);
  const auto percentile = [&](double share) {
    if (latencies_us.empty()) return 0.0;
    return latencies_us[static_cast<size_t>(share * static_cast<double>(latencies_us.size() - 1))];
  };
  double sum_us = 0;
  for (const double latency_us : latencies_us) sum_us += latency_us;
  std::printf(
      "{\"load\": \"%s\", \"depth\": %zu, \"seconds\": %.3f, \"requests\": %lu, \"iops\": %.1f, "
      "\"bytes_per_second\": %.0f, \"transactions\": %lu, \"retries\": %lu, "
      "\"latency_us\": {\"mean\": %.1f, \"p50\": %.1f, \"p99\": %.1f}}\n",
      settings.load.c_str(), settings.depth, seconds, requests_count,
      static_cast<double>(requests_count) / seconds, static_cast<double>(bytes) / seconds, transactions_count,
      retries_count, latencies_us.empty() ? 0 : sum_us / static_cast<double>(latencies_us.size()),
      percentile(0.5), percentile(0.99));
}

Floor::Floor(const Api& the_api, const Settings& the_settings) : api(the_api), settings(the_settings) {
  if (api.create_database(settings.cluster_file.c_str(), &database) != 0) die("no such cluster file");
  refresh_version();
}

Floor::~Floor() {
  api.database_destroy(database);
}

FDBTransaction* Floor::begin() {
  FDBTransaction* transaction = nullptr;
  if (api.database_create_transaction(database, &transaction) != 0) die("no transaction");
  api.transaction_set_option(
      transaction, static_cast<int>(kv::fdb::TransactionOption::read_your_writes_disable), nullptr, 0);
  return transaction;
}

void Floor::refresh_version() {
  class Version final : public Waiting {
   public:
    void on_ready() override {}
  } waiting;
  Completions own;
  while (true) {
    FDBTransaction* const transaction = begin();
    own.add(api, waiting, api.transaction_get_read_version(transaction));
    own.run_ready();
    const bool is_given = api.future_get_int64(waiting.future, &version_) == 0;
    api.future_destroy(waiting.future);
    api.transaction_destroy(transaction);
    if (is_given) break;
  }
  version_at_ = Clock::now();
}

int64_t Floor::version() {
  if (Clock::now() - version_at_ > kVersionAge) refresh_version();
  return version_;
}

void Floor::on_committed(int64_t version) {
  if (version - 1 <= version_) return;
  version_ = version - 1;
  version_at_ = Clock::now();
}

void Floor::start_clock(Clock::duration warm_up) {
  started_at_ = Clock::now() + warm_up;
  deadline_ = started_at_ +
              std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(settings.seconds));
}

void Floor::count_request(Clock::time_point began_at, uint64_t bytes) {
  const Clock::time_point now = Clock::now();
  if (now < started_at_) return;
  figures.latencies_us.push_back(std::chrono::duration<double, std::micro>(now - began_at).count());
  ++figures.requests_count;
  figures.bytes += bytes;
}

void Floor::count_transaction() {
  if (Clock::now() >= started_at_) ++figures.transactions_count;
}

std::string block_key(uint64_t block) {
  std::string key = "floor--/D";
  key.append("\0\0\0\0\0\0\xf1\x00", 8);
  key += static_cast<char>(block / kBlocksPerExtent % kStripesCount);
  for (int shift = 48; shift >= 0; shift -= 8) key += static_cast<char>(block >> shift);
  return key;
}

namespace {

uint64_t next_random(uint64_t& state) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}

constexpr size_t kPoolBytes = 64u << 20;

}  // namespace

Data::Data() : pool_(kPoolBytes) {
  std::mt19937_64 random(std::random_device{}());
  for (size_t at = 0; at < pool_.size(); at += 8) {
    const uint64_t word = random();
    std::memcpy(&pool_[at], &word, 8);
  }
}

const uint8_t* Data::value() {
  return &pool_[next_random(state_) % (kPoolBytes - kValueBytes)];
}

uint64_t RandomBlocks::next() {
  return next_random(state_) % blocks_count_;
}

namespace {

constexpr auto kWarmUp = std::chrono::milliseconds(500);

struct Load {
  const char* name;
  void (*run)(Floor&);
  Clock::duration warm_up = kWarmUp;
};
constexpr Load kLoads[] = {{"fill", fill, Clock::duration::zero()},
                           {"rand-write", write_blocks},
                           {"seq-write", write_stream},
                           {"rand-read", read_blocks},
                           {"seq-read", read_stream}};

int run(const Settings& settings, const Load& load) {
  const auto api = kv::fdb::load_api(kv::fdb::library_candidates({}));
  if (!api) die(api.error().what);
  if (api->select_api_version_impl(api->version, api->version) != 0 || api->setup_network() != 0)
    die("the client library does not start");
  std::thread network([&] { api->run_network(); });
  {
    Floor floor(*api, settings);
    floor.start_clock(load.warm_up);
    load.run(floor);
    floor.stop_clock();
    floor.figures.print(settings);
  }
  api->stop_network();
  network.join();
  return 0;
}

}  // namespace

}  // namespace fdbnbd::floor

int main(int argc, char** argv) {
  using namespace fdbnbd::floor;
  if (argc < 6 || argc > 8) {
    std::fprintf(
        stderr,
        "usage: fdb-nbd-floor CLUSTER_FILE LOAD RANGE_MIB SECONDS DEPTH [BATCH_BLOCKS [own]]\n"
        "LOAD is fill, rand-write, seq-write, rand-read or seq-read; BATCH_BLOCKS, at most that many "
        "in a transaction; `own`: each transaction that writes asks for its own read version\n");
    return 2;
  }
  Settings settings;
  settings.cluster_file = argv[1];
  settings.load = argv[2];
  settings.blocks_count = std::strtoull(argv[3], nullptr, 10) * ((1u << 20) / kBlockBytes);
  settings.seconds = std::strtod(argv[4], nullptr);
  settings.depth = std::strtoull(argv[5], nullptr, 10);
  if (argc > 6)
    settings.batch_blocks = std::min<uint64_t>(std::strtoull(argv[6], nullptr, 10), kBlocksPerTransaction);
  if (argc > 7) settings.version_source = VersionSource::own;
  if (settings.blocks_count == 0 || settings.depth == 0 || settings.batch_blocks == 0)
    die("a range, a depth and a batch of at least 1");
  for (const Load& load : kLoads)
    if (settings.load == load.name) return run(settings, load);
  die("no such load");
}
