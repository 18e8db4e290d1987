#include "session/transmission.h"

#include <algorithm>
#include <utility>

#include "base/assert.h"
#include "base/log.h"
#include "proto/errno_map.h"

namespace fdbnbd::session {

using proto::Command;
using proto::NbdError;
using proto::PayloadAction;
using proto::Request;

namespace {

// Blocks are at least this large, so this many extents per byte are enough for a BLOCK_STATUS answer.
constexpr uint64_t kBytesPerStatusExtent = limits::kMinBlockBytes;
// What is prepared for each extent that a request covers, all at once: changes where it clears, else bitmaps.
constexpr uint64_t kBytesPerExtent = uint64_t{limits::kBlocksPerExtent} * limits::kMinBlockBytes;
constexpr uint64_t kMemoryPerClearedExtent = 6 * limits::kKiB;
constexpr uint64_t kMemoryPerLookedAtExtent = limits::kKiB;
constexpr uint64_t kMemoryPerStatusExtent = sizeof(block::StatusExtent) + 2 * proto::kStatusDescriptorBytes;

}  // namespace

const char* to_string(End end) {
  switch (end) {
    case End::disconnected:
      return "disconnected";
    case End::stopped:
      return "stopped";
    case End::aborted:
      return "aborted";
    case End::lost:
      return "connection lost";
    case End::protocol:
      return "protocol error";
    case End::stalled:
      return "too slow";
  }
  return "unknown";
}

// Waits until a request of this connection ends, or the session does.
class Transmission::RoomWait final : public Work {
 public:
  explicit RoomWait(Transmission& session) : session_(session) {}
  bool await_ready() const noexcept { return session_.must_end(); }
  void await_suspend(std::coroutine_handle<> waiter) noexcept {
    waiter_ = waiter;
    session_.room_wait_ = this;
  }
  void await_resume() const noexcept {}
  void run() noexcept override { waiter_.resume(); }

 private:
  Transmission& session_;
  std::coroutine_handle<> waiter_;
};

Transmission::Transmission(std::unique_ptr<net::Stream> stream, block::Export& exported,
                           const Agreement& agreement, std::string early_bytes, SessionShared& shared)
    : stream_(std::move(stream)),
      export_(exported),
      executor_(exported.executor()),
      shared_(shared),
      max_payload_bytes_(std::min(exported.info().max_payload_bytes, limits::kMaxPayloadBytes)),
      read_only_(exported.info().read_only),
      structured_(agreement.structured_replies),
      contexts_(agreement.contexts),
      receive_stall_(
          executor_, shared.limits, shared.budget, [this] { return bytes_in_flight_; },
          [this] { on_stalled("sends a payload"); }),
      send_stall_(
          executor_, shared.limits, shared.budget, [this] { return bytes_in_flight_; },
          [this] { on_stalled("reads its replies"); }),
      writer_(executor_, *stream_, send_stall_) {
  const ByteView early = as_bytes(early_bytes);
  kept_.assign(early.begin(), early.end());
  input_ = kept_;
}

Transmission::~Transmission() = default;

proto::TransmissionFacts Transmission::facts() const {
  return {.size_bytes = size_bytes_,
          .max_payload_bytes = max_payload_bytes_,
          .read_only = read_only_,
          .structured_replies = structured_,
          .has_contexts = !contexts_.empty()};
}

Task<End> Transmission::run(LoopResources& resources) {
  resources_ = &resources;
  if (!stream_->attach(executor_)) writer_.fail();
  tasks_.spawn(writer_.run());
  End end = co_await read_requests();
  // DISC, and a client that has said its last word, still get every answer (NBD proto, "NBD_CMD_DISC").
  const bool orderly = end == End::disconnected || end == End::stopped;
  if (!orderly) break_connection();
  co_await requests_.join();
  writer_.finish();
  co_await tasks_.join();
  receive_stall_.stop();
  send_stall_.stop();
  if (stalled_) {
    end = End::stalled;
  } else if (aborted_) {
    end = End::aborted;
  } else if (orderly && !writer_.failed()) {
    stream_->shutdown_write();
    co_await linger();
  }
  stream_->close();
  co_return end;
}

void Transmission::stop() {
  stopping_ = true;
  wake_reader();
}

void Transmission::abort() {
  aborted_ = true;
  break_connection();
}

void Transmission::break_connection() {
  writer_.fail();
  wake_reader();
}

void Transmission::on_stalled(const char* what) {
  log::warning("{}: dropped, hardly {} and holds {} bytes", stream_->peer(), what, bytes_in_flight_);
  shared_.counters.evicted_peers.fetch_add(1, std::memory_order_relaxed);
  stalled_ = true;
  break_connection();
}

void Transmission::wake_reader() {
  stream_->interrupt();
  if (acquisition_ != nullptr) acquisition_->cancel();
  if (room_wait_ != nullptr) executor_.post(*std::exchange(room_wait_, nullptr));
}

// --- Reading

Task<End> Transmission::read_requests() {
  size_bytes_ = export_.size_bytes();
  if (!input_.empty()) {
    if (const auto end = co_await take_requests()) co_return *end;
  }
  for (;;) {
    if (writer_.failed()) co_return End::lost;
    if (stopping_) co_return End::stopped;
    const MutableByteView scratch = resources_->scratch();
    std::copy_n(partial_header_.begin(), partial_header_bytes_, scratch.begin());
    const auto received = stream_->try_read(scratch.subspan(partial_header_bytes_));
    if (!received) co_return End::lost;
    if (!*received) {
      co_await stream_->readable();
      continue;
    }
    if (**received == 0) co_return partial_header_bytes_ == 0 ? End::disconnected : End::lost;
    input_ = scratch.first(partial_header_bytes_ + **received);
    size_bytes_ = export_.size_bytes();
    if (const auto end = co_await take_requests()) co_return *end;
  }
}

Task<std::optional<End>> Transmission::take_requests() {
  while (input_.size() >= proto::kRequestBytes) {
    const auto request = proto::decode_request(input_.first<proto::kRequestBytes>());
    if (!request) {
      shared_.counters.protocol_errors.fetch_add(1, std::memory_order_relaxed);
      co_return End::protocol;
    }
    if (request->command == Command::disc) co_return End::disconnected;
    input_ = input_.subspan(proto::kRequestBytes);

    Admitted admitted{.request = *request,
                      .verdict = proto::validate_request(*request, facts()),
                      .lease = {},
                      .data_bytes = 0,
                      .payload = {}};
    const PayloadAction action = proto::payload_action(*request, admitted.verdict);
    if (action == PayloadAction::close) {
      shared_.counters.protocol_errors.fetch_add(1, std::memory_order_relaxed);
      co_return End::protocol;
    }
    if (action == PayloadAction::skip) {
      if (const auto end = co_await skip_payload(request->length_bytes)) co_return end;
    }
    if (admitted.verdict == NbdError::ok) admitted.data_bytes = request_data_bytes(*request);
    if (!try_admit(admitted)) {
      keep_input();
      const bool is_admitted = co_await admit(admitted);
      if (!is_admitted) co_return writer_.failed() ? End::lost : End::stopped;
    }
    if (action == PayloadAction::receive) {
      admitted.payload = resources_->buffers.take(request->length_bytes);
      const MutableByteView payload = admitted.payload.bytes();
      const size_t had = take_input(payload);
      if (had < payload.size()) {
        const auto end = co_await receive_payload(payload.subspan(had));
        if (end) {
          bytes_in_flight_ -= admitted.data_bytes;
          co_return end;
        }
      }
    }
    ++requests_in_flight_;
    ++requests_count_;
    requests_.spawn(serve(std::move(admitted)));
  }
  partial_header_bytes_ = input_.size();
  std::copy(input_.begin(), input_.end(), partial_header_.begin());
  input_ = {};
  if (kept_.capacity() > 0) kept_ = {};
  co_return std::nullopt;
}

uint32_t Transmission::status_extents_limit(const Request& request) const {
  if (request.has(proto::kCmdFlagReqOne)) return 1;
  const auto contexts_count = std::max<uint64_t>(1, contexts_.size());
  return static_cast<uint32_t>(std::min<uint64_t>(request.length_bytes / kBytesPerStatusExtent + 2,
                                                  limits::kMaxStatusExtents / contexts_count));
}

uint64_t Transmission::request_data_bytes(const Request& request) const {
  switch (request.command) {
    case Command::read:
    case Command::write:
      return BufferPool::footprint_bytes(request.length_bytes);
    case Command::block_status:
      return contexts_.size() * (status_extents_limit(request) * kMemoryPerStatusExtent +
                                 request.length_bytes / kBytesPerExtent * kMemoryPerLookedAtExtent);
    case Command::trim:
    case Command::write_zeroes:
      return request.length_bytes / kBytesPerExtent * kMemoryPerClearedExtent;
    default:
      return 0;
  }
}

ByteBudget::Size Transmission::size_class(uint64_t data_bytes) const {
  return data_bytes <= shared_.limits.small_request_bytes ? ByteBudget::Size::small : ByteBudget::Size::large;
}

bool Transmission::has_room(const Admitted& admitted) const {
  // A request larger than the connection's bound goes alone.
  return requests_in_flight_ < shared_.requests_per_connection.load(std::memory_order_relaxed) &&
         (bytes_in_flight_ == 0 ||
          bytes_in_flight_ + admitted.data_bytes <= shared_.connection_bytes.load(std::memory_order_relaxed));
}

bool Transmission::try_admit(Admitted& admitted) {
  if (!has_room(admitted)) return false;
  auto lease = shared_.budget.try_acquire(limits::kRequestOverheadBytes + admitted.data_bytes,
                                          size_class(admitted.data_bytes));
  if (!lease) return false;
  admitted.lease = std::move(*lease);
  bytes_in_flight_ += admitted.data_bytes;
  return true;
}

Task<bool> Transmission::admit(Admitted& admitted) {
  while (!has_room(admitted)) {
    co_await RoomWait(*this);
    if (must_end()) co_return false;
  }
  ByteBudget::Acquisition acquisition(shared_.budget, executor_,
                                      limits::kRequestOverheadBytes + admitted.data_bytes,
                                      size_class(admitted.data_bytes));
  acquisition_ = &acquisition;
  auto lease = co_await acquisition;
  acquisition_ = nullptr;
  if (!lease || must_end()) co_return false;
  admitted.lease = std::move(*lease);
  bytes_in_flight_ += admitted.data_bytes;
  co_return true;
}

void Transmission::keep_input() {
  if (!kept_.empty() && input_.data() >= kept_.data() && input_.data() <= kept_.data() + kept_.size()) return;
  kept_.assign(input_.begin(), input_.end());
  input_ = kept_;
}

size_t Transmission::take_input(MutableByteView into) {
  const size_t count = std::min(into.size(), input_.size());
  std::copy_n(input_.begin(), count, into.begin());
  input_ = input_.subspan(count);
  return count;
}

Task<std::optional<End>> Transmission::receive_payload(MutableByteView rest) {
  ASSERT(input_.empty());
  uint64_t turn_bytes = 0;
  while (!rest.empty()) {
    // A write that is cut short was never asked for: it is dropped whole.
    if (writer_.failed()) co_return End::lost;
    if (stopping_) co_return End::stopped;
    const auto received = stream_->try_read(rest);
    if (!received || (*received && **received == 0)) co_return End::lost;
    if (!*received) {
      receive_stall_.begin();
      co_await stream_->readable();
      receive_stall_.end();
      turn_bytes = 0;
      continue;
    }
    rest = rest.subspan(**received);
    receive_stall_.progress(**received);
    turn_bytes += **received;
    if (turn_bytes >= limits::kReceiveTurnBytes) {
      co_await reschedule(executor_);
      turn_bytes = 0;
    }
  }
  co_return std::nullopt;
}

Task<std::optional<End>> Transmission::skip_payload(uint64_t rest_bytes) {
  const size_t had = static_cast<size_t>(std::min<uint64_t>(rest_bytes, input_.size()));
  input_ = input_.subspan(had);
  rest_bytes -= had;
  uint64_t turn_bytes = 0;
  while (rest_bytes > 0) {
    if (writer_.failed()) co_return End::lost;
    if (stopping_) co_return End::stopped;
    const MutableByteView scratch = resources_->scratch();
    const auto received = stream_->try_read(scratch.first(std::min<uint64_t>(rest_bytes, scratch.size())));
    if (!received || (*received && **received == 0)) co_return End::lost;
    if (!*received) {
      co_await stream_->readable();
      turn_bytes = 0;
      continue;
    }
    rest_bytes -= **received;
    turn_bytes += **received;
    if (turn_bytes >= limits::kReceiveTurnBytes) {
      co_await reschedule(executor_);
      turn_bytes = 0;
    }
  }
  co_return std::nullopt;
}

Task<void> Transmission::linger() {
  // A close with bytes unread makes TCP reset the connection, and the peer could lose replies that are still
  // on their way: wait for it to close first, but not for ever.
  struct Deadline final : TimerWork {
    explicit Deadline(net::Stream& stream) : stream(stream) {}
    void run() noexcept override {
      passed = true;
      stream.interrupt();
    }
    net::Stream& stream;
    bool passed = false;
  };
  Deadline deadline(*stream_);
  executor_.start_timer(deadline, shared_.limits.linger_timeout);
  while (!deadline.passed && !aborted_) {
    const auto received = stream_->try_read(resources_->scratch());
    if (!received || (*received && **received == 0)) break;
    if (!*received) co_await stream_->readable();
  }
  executor_.cancel_timer(deadline);
}

// --- Serving

void Transmission::release_data(Admitted& admitted) {
  admitted.payload.release();
  admitted.lease.shrink_to(limits::kRequestOverheadBytes);
  bytes_in_flight_ -= std::exchange(admitted.data_bytes, 0);
  if (room_wait_ != nullptr) executor_.post(*std::exchange(room_wait_, nullptr));
}

void Transmission::on_served(Admitted& admitted) {
  --requests_in_flight_;
  release_data(admitted);
  shared_.counters.requests_in_flight.fetch_sub(1, std::memory_order_relaxed);
}

Task<void> Transmission::serve(Admitted admitted) {
  shared_.counters.requests_count.fetch_add(1, std::memory_order_relaxed);
  shared_.counters.requests_in_flight.fetch_add(1, std::memory_order_relaxed);
  const Request& request = admitted.request;
  Reply reply;
  if (admitted.verdict != NbdError::ok) {
    reply.set_error(request, structured_, admitted.verdict, proto::rejection_text(request, facts()));
  } else if (const auto done = co_await execute(admitted, reply); !done) {
    const Error& error = done.error();
    if (error.code == Errc::cancelled) {
      // The disk goes on elsewhere: the client is to ask again there, and would take an answer for the last
      // word.
      stop();
      on_served(admitted);
      co_return;
    }
    const NbdError code = proto::error_for(error.code, request);
    if (code == NbdError::eio) {
      log::error("{}: {} at {} of {} bytes failed: {} ({})", stream_->peer(),
                 proto::command_name(request.command), request.offset_bytes, request.length_bytes, error.what,
                 errc_name(error.code));
    }
    reply.set_error(request, structured_, code, error.what);
  }
  co_await writer_.send(reply);
  on_served(admitted);
}

Task<Result<void>> Transmission::execute(Admitted& admitted, Reply& reply) {
  const Request& request = admitted.request;
  const bool fua = request.has(proto::kCmdFlagFua);
  const bool empty = request.length_bytes == 0 && request.command != Command::flush;
  Result<void> done;
  if (!empty) {
    switch (request.command) {
      case Command::read:
        co_return co_await read(admitted, reply);
      case Command::block_status:
        co_return co_await block_status(admitted, reply);
      case Command::write:
        done = co_await export_.write(request.offset_bytes, admitted.payload.bytes(), {.fua = fua});
        break;
      case Command::flush:
        done = co_await export_.flush();
        break;
      case Command::trim:
        done = co_await export_.trim(request.offset_bytes, request.length_bytes, {.fua = fua});
        break;
      case Command::cache:
        done = co_await export_.cache(request.offset_bytes, request.length_bytes);
        break;
      case Command::write_zeroes:
        done = co_await export_.write_zeroes(request.offset_bytes, request.length_bytes,
                                             {.fua = fua,
                                              .no_hole = request.has(proto::kCmdFlagNoHole),
                                              .fast_only = request.has(proto::kCmdFlagFastZero)});
        break;
      case Command::disc:
      case Command::resize:
        done = fail(Errc::invalid, "unknown command");  // validate_request() let none of these through
        break;
    }
  }
  if (done) reply.set_done(request, structured_);
  // The data is the store's now: a client that does not read its replies holds nothing but them.
  release_data(admitted);
  co_return done;
}

Task<Result<void>> Transmission::read(Admitted& admitted, Reply& reply) {
  admitted.payload = resources_->buffers.take(admitted.request.length_bytes);
  const MutableByteView data = admitted.payload.bytes();
  auto segments = co_await export_.read(admitted.request.offset_bytes, data);
  const bool holds_data = segments && reply.set_data(admitted.request, structured_, *segments, data);
  if (!holds_data) release_data(admitted);
  CO_RETURN_IF_ERROR(segments);
  co_return Result<void>();
}

Task<Result<void>> Transmission::block_status(Admitted& admitted, Reply& reply) {
  const Request& request = admitted.request;
  std::vector<Reply::ContextStatus> statuses;
  size_t extents_count = 0;
  for (const SelectedContext& context : contexts_) {
    auto extents = co_await context_status(request, context);
    if (!extents) co_return tl::unexpected(extents.error());
    extents_count += extents->size();
    statuses.push_back({.context_id = context.id, .extents = std::move(*extents)});
  }
  reply.set_status(request, statuses);
  admitted.lease.shrink_to(limits::kRequestOverheadBytes + extents_count * kMemoryPerStatusExtent);
  co_return Result<void>();
}

Task<Result<std::vector<block::FlaggedExtent>>> Transmission::context_status(const Request& request,
                                                                             const SelectedContext& context) {
  const uint32_t limit = status_extents_limit(request);
  if (context.topic) {
    co_return co_await export_.topic_status(*context.topic, request.offset_bytes, request.length_bytes,
                                            limit);
  }
  const auto allocation = co_await export_.block_status(request.offset_bytes, request.length_bytes, limit);
  if (!allocation) co_return tl::unexpected(allocation.error());
  std::vector<block::FlaggedExtent> extents;
  extents.reserve(allocation->size());
  for (const block::StatusExtent& extent : *allocation)
    extents.push_back({extent.length_bytes, proto::allocation_flags(extent.is_hole, extent.is_zero)});
  co_return extents;
}

}  // namespace fdbnbd::session
