#include <fmt/core.h>

#include "base/log.h"
#include "volume/catalog.h"

// The space of removed volumes comes back in the background, in steps of limited size, and goes on after a
// restart: what is left of the layer's bitmaps is what is left to do.

namespace fdbnbd::volume {

namespace {

// One step clears the blocks of so many extents: 16 GiB at 4 KiB blocks.
constexpr uint32_t kExtentsPerStep = 4096;

}  // namespace

Task<Result<void>> Catalog::resume_jobs() {
  ASSIGN_OR_CO_RETURN(const auto rows, co_await read_all(keys_.type_begin('T'), keys_.type_end('T')));
  for (const kv::KeyValue& row : rows) {
    const auto id = keys_.id_of(row.key);
    const auto job = JobRecord::decode(row.value);
    if (!id || !job) {
      log::error("a background job's record is damaged ({}); run fdb-nbd check",
                 job ? "its key" : job.error().what);
      continue;
    }
    ++jobs_count_;
    scope_.spawn(reclaim(JobId{*id}, *job));
  }
  co_return Result<void>{};
}

Task<void> Catalog::reclaim(JobId id, JobRecord job) {
  auto body = [&](kv::Transaction& transaction) { return reclaim_step(transaction, id, job); };
  while (!stopping_) {
    const Result<bool> finished = co_await transact<bool>(body);
    if (!finished) {
      // Left for the next start; nothing is lost but space.
      log::warning("reclaiming the space of a removed volume stopped: {}", finished.error().what);
      break;
    }
    if (*finished) break;
    co_await reschedule(home_);
  }
  --jobs_count_;
  jobs_changed_.notify_all();
}

// Whether nothing is left of the layer.
Task<Result<bool>> Catalog::reclaim_step(kv::Transaction& transaction, JobId id, const JobRecord& job) {
  transaction.set_background();
  const std::string begin = keys_.layer_begin('B', job.layer);
  const std::string end = keys_.layer_end('B', job.layer);
  auto page =
      co_await transaction.get_range({begin, end}, {.rows_limit = kExtentsPerStep}, kv::Isolation::snapshot);
  if (!page) co_return propagate(page);
  if (page->rows.empty()) {
    const std::string blocks_begin = keys_.layer_begin('D', job.layer);
    const std::string blocks_end = keys_.layer_end('D', job.layer);
    transaction.clear_range({blocks_begin, blocks_end});
    transaction.clear(keys_.layer(job.layer));
    transaction.clear(keys_.job(id));
    co_return true;
  }
  const std::string layer_key = keys_.layer(job.layer);
  auto layer = co_await transaction.get(layer_key, kv::Isolation::snapshot);
  if (!layer) co_return propagate(layer);
  uint32_t stripes_count = 256;  // without its record: all that can be
  if (layer->has_value()) {
    if (const auto record = LayerRecord::decode(**layer)) stripes_count = record->striping.stripes_count;
  }
  const auto first_extent = keys_.extent_of_bitmap(page->rows.front().key);
  const auto last_extent = keys_.extent_of_bitmap(page->rows.back().key);
  if (!first_extent || !last_extent) co_return fail(Errc::corruption, "a presence bitmap's key is damaged");
  for (uint32_t stripe = 0; stripe < stripes_count; ++stripe) {
    const std::string from = keys_.stripe_block(job.layer, stripe, *first_extent * limits::kBlocksPerExtent);
    const std::string to =
        keys_.stripe_block(job.layer, stripe, (*last_extent + 1) * limits::kBlocksPerExtent);
    transaction.clear_range({from, to});
  }
  transaction.clear_range({begin, key_after(page->rows.back().key)});
  co_return false;
}

Task<void> Catalog::wait_for_reclaim() {
  while (jobs_count_ > 0) co_await jobs_changed_.wait();
}

}  // namespace fdbnbd::volume
