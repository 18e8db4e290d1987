#include "session/fake_export_testing.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/assert.h"
#include "base/checked_math.h"
#include "base/limits.h"

namespace fdbnbd::session {

namespace {

struct Held {
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> waiter) const { waiting.push_back(waiter); }
  void await_resume() const noexcept {}
  std::vector<std::coroutine_handle<>>& waiting;
};

}  // namespace

FakeExport::FakeExport(Executor& executor, Options options)
    : executor_(executor), options_(std::move(options)), bytes_(options_.size_bytes) {}

FakeExport::~FakeExport() {
  ASSERT(running_count_ == 0);
}

void FakeExport::hold() {
  held_ = true;
}

void FakeExport::let_go() {
  held_ = false;
  for (const auto waiter : std::exchange(waiting_, {})) waiter.resume();
}

block::ExportInfo FakeExport::info() const {
  return {.name = options_.name,
          .description = "a fake",
          .size_bytes = bytes_.size(),
          .min_block_bytes = 1,
          .preferred_block_bytes = 4096,
          .max_payload_bytes = limits::kMaxPayloadBytes,
          .read_only = options_.read_only};
}

Task<Result<void>> FakeExport::begin(const char* operation, uint64_t offset_bytes, uint64_t length_bytes) {
  ASSERT(executor_.runs_here());
  if (options_.random != nullptr && !options_.random->one_in(4)) {
    const auto delay_ns = options_.random->below(static_cast<uint64_t>(options_.delay_max.count()) + 1);
    co_await sleep_for(executor_, Duration(static_cast<int64_t>(delay_ns)));
  }
  while (held_) co_await Held{waiting_};
  if (on_operation) {
    if (auto error = on_operation(operation, offset_bytes, length_bytes)) {
      co_return tl::unexpected(std::move(*error));
    }
  }
  if (!range_fits(offset_bytes, length_bytes, bytes_.size())) {
    co_return fail(Errc::past_end, "beyond the end");
  }
  co_return Result<void>();
}

Result<void> FakeExport::end(const char* operation) {
  --running_count_;
  if (!immediate()) ++ended_counts[operation];
  return {};
}

std::vector<block::ReadSegment> FakeExport::map(uint64_t offset_bytes, uint64_t length_bytes) const {
  const uint64_t step = options_.hole_block_bytes;
  if (step == 0) return {{.length_bytes = static_cast<uint32_t>(length_bytes), .is_hole = false}};
  std::vector<block::ReadSegment> segments;
  const uint64_t end = offset_bytes + length_bytes;
  for (uint64_t at = offset_bytes; at < end;) {
    const uint64_t block = at / step * step;
    const uint64_t block_end = std::min<uint64_t>(block + step, bytes_.size());
    const bool is_hole = is_all_zero(ByteView(bytes_).subspan(block, block_end - block));
    // A hole covers whole blocks.
    const bool whole = at == block && (block_end <= end);
    const auto count = static_cast<uint32_t>(std::min(block_end, end) - at);
    if (!segments.empty() && segments.back().is_hole == (is_hole && whole)) {
      segments.back().length_bytes += count;
    } else {
      segments.push_back({.length_bytes = count, .is_hole = is_hole && whole});
    }
    at += count;
  }
  return segments;
}

Task<Result<std::vector<block::ReadSegment>>> FakeExport::read(uint64_t offset_bytes, MutableByteView into) {
  ++running_count_;
  if (!immediate()) {
    auto begun = co_await begin("read", offset_bytes, into.size());
    if (!begun) {
      (void)end("read");
      co_return propagate(begun);
    }
  }
  auto segments = map(offset_bytes, into.size());
  size_t at = 0;
  for (const block::ReadSegment& segment : segments) {
    if (!segment.is_hole)
      std::memcpy(into.data() + at, bytes_.data() + offset_bytes + at, segment.length_bytes);
    at += segment.length_bytes;
  }
  (void)end("read");
  co_return segments;
}

Task<Result<void>> FakeExport::write(uint64_t offset_bytes, ByteView data, block::WriteOptions /*options*/) {
  ++running_count_;
  if (!immediate()) {
    auto begun = co_await begin("write", offset_bytes, data.size());
    if (!begun) {
      (void)end("write");
      co_return begun;
    }
  }
  std::memcpy(bytes_.data() + offset_bytes, data.data(), data.size());
  co_return end("write");
}

Task<Result<void>> FakeExport::flush() {
  ++running_count_;
  auto begun = co_await begin("flush", 0, 0);
  (void)end("flush");
  co_return begun;
}

void FakeExport::zero(uint64_t offset_bytes, uint64_t length_bytes) {
  std::memset(bytes_.data() + offset_bytes, 0, length_bytes);
}

Task<Result<void>> FakeExport::trim(uint64_t offset_bytes, uint64_t length_bytes,
                                    block::WriteOptions /*options*/) {
  ++running_count_;
  auto begun = co_await begin("trim", offset_bytes, length_bytes);
  if (begun) zero(offset_bytes, length_bytes);
  (void)end("trim");
  co_return begun;
}

Task<Result<void>> FakeExport::write_zeroes(uint64_t offset_bytes, uint64_t length_bytes,
                                            block::ZeroOptions options) {
  ++running_count_;
  auto begun = co_await begin("write_zeroes", offset_bytes, length_bytes);
  if (begun && options.fast_only && options.no_hole) begun = fail(Errc::not_supported, "not fast");
  if (begun) zero(offset_bytes, length_bytes);
  (void)end("write_zeroes");
  co_return begun;
}

Task<Result<void>> FakeExport::cache(uint64_t offset_bytes, uint64_t length_bytes) {
  ++running_count_;
  auto begun = co_await begin("cache", offset_bytes, length_bytes);
  (void)end("cache");
  co_return begun;
}

Task<Result<std::vector<block::StatusExtent>>> FakeExport::block_status(uint64_t offset_bytes,
                                                                        uint64_t length_bytes,
                                                                        uint32_t extents_limit) {
  ++running_count_;
  auto begun = co_await begin("block_status", offset_bytes, length_bytes);
  (void)end("block_status");
  if (!begun) co_return propagate(begun);
  std::vector<block::StatusExtent> extents;
  for (const block::ReadSegment& segment : map(offset_bytes, length_bytes)) {
    if (extents.size() == extents_limit) break;
    extents.push_back(
        {.length_bytes = segment.length_bytes, .is_hole = segment.is_hole, .is_zero = segment.is_hole});
  }
  co_return extents;
}

std::shared_ptr<FakeExport> FakeRegistry::find(const std::string& name) const {
  if (name.empty() && exports_.size() == 1) return exports_.begin()->second;
  const auto found = exports_.find(name);
  return found == exports_.end() ? nullptr : found->second;
}

Task<Result<std::vector<block::ExportListing>>> FakeRegistry::list(Executor& executor) {
  if (delay > Duration::zero()) co_await sleep_for(executor, delay);
  std::vector<block::ExportListing> listing;
  for (const auto& [name, exported] : exports_) listing.push_back({.name = name, .description = "a fake"});
  co_return listing;
}

Task<Result<std::shared_ptr<block::Export>>> FakeRegistry::open(Executor& executor, std::string name) {
  if (delay > Duration::zero()) co_await sleep_for(executor, delay);
  auto found = find(name);
  if (found == nullptr) co_return fail(Errc::not_found, "no such export");
  co_return found;
}

Task<Result<block::ExportInfo>> FakeRegistry::describe(Executor& executor, std::string name) {
  if (delay > Duration::zero()) co_await sleep_for(executor, delay);
  const auto found = find(name);
  if (found == nullptr) co_return fail(Errc::not_found, "no such export");
  co_return found->info();
}

}  // namespace fdbnbd::session
