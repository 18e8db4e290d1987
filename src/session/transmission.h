#pragma once

#include <array>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "async/scope.h"
#include "async/task.h"
#include "block/export.h"
#include "net/stream.h"
#include "proto/request.h"
#include "session/negotiator.h"
#include "session/reply.h"
#include "session/reply_writer.h"
#include "session/session_shared.h"
#include "session/stall_watch.h"

// The transmission phase of one connection (NBD proto, "Transmission").
//
// read_requests() takes many requests out of one receive and starts each as a coroutine, serve(), which calls
// the Export, waits, and hands its reply to the ReplyWriter. A request is admitted, against the bounds of the
// connection and of the process, before its payload is read; until then the socket is left alone.

namespace fdbnbd::session {

// How a connection ended.
enum class End {
  disconnected,  // DISC, or the end of the client's bytes between requests
  stopped,       // stop()
  aborted,       // abort(): what was in flight went unanswered
  lost,          // the peer vanished, or closed in the middle of a request
  protocol,      // it broke the protocol beyond repair
  stalled,       // it held memory and did not move
};
const char* to_string(End end);

class Transmission {
 public:
  // `exported` and `shared` outlive it. `early_bytes` came behind the handshake.
  Transmission(std::unique_ptr<net::Stream> stream, block::Export& exported, const Agreement& agreement,
               std::string early_bytes, SessionShared& shared);
  ~Transmission();
  Transmission(const Transmission&) = delete;
  Transmission& operator=(const Transmission&) = delete;

  // Serves until the connection has ended and nothing of it is in flight; the stream is closed then. Once, on
  // the Export's executor, which the stream joins here. `resources` are that executor's.
  Task<End> run(LoopResources& resources);

  // Takes no more requests; what is in flight is answered, then the connection is closed. On the Export's
  // executor; at any time, also before run() and after it.
  void stop();
  // The same without answers.
  void abort();

  const std::string& peer() const { return stream_->peer(); }
  uint64_t requests_count() const { return requests_count_; }

 private:
  // A request with what it may use.
  struct Admitted {
    proto::Request request;
    proto::NbdError verdict = proto::NbdError::ok;
    ByteBudget::Lease lease;
    uint64_t data_bytes = 0;  // counted against the connection
    Buffer payload;
  };
  class RoomWait;

  Task<End> read_requests();
  // Takes the requests out of input_; nothing when more bytes are needed.
  Task<std::optional<End>> take_requests();
  // Waits until the request may use `data_bytes`; false when the session ends meanwhile.
  Task<bool> admit(Admitted& admitted);
  bool has_room(const Admitted& admitted) const;
  bool try_admit(Admitted& admitted);
  Task<std::optional<End>> receive_payload(MutableByteView rest);
  Task<std::optional<End>> skip_payload(uint64_t rest_bytes);
  // Copies what is left of input_ out of the shared receive buffer, before a pause.
  void keep_input();
  // Copies the beginning of a payload out of input_; returns the bytes copied.
  size_t take_input(MutableByteView into);
  ByteBudget::Size size_class(uint64_t data_bytes) const;
  uint64_t request_data_bytes(const proto::Request& request) const;
  uint32_t status_extents_limit(const proto::Request& request) const;

  Task<void> serve(Admitted admitted);
  Task<Result<void>> execute(Admitted& admitted, Reply& reply);
  Task<Result<void>> read(Admitted& admitted, Reply& reply);
  Task<Result<void>> block_status(Admitted& admitted, Reply& reply);
  Task<Result<std::vector<block::FlaggedExtent>>> context_status(const proto::Request& request,
                                                                 const SelectedContext& context);
  // Gives back what the request's data took.
  void release_data(Admitted& admitted);
  void on_served(Admitted& admitted);

  bool must_end() const { return stopping_ || aborted_ || writer_.failed(); }
  void wake_reader();
  void break_connection();
  void on_stalled(const char* what);
  Task<void> linger();
  proto::TransmissionFacts facts() const;

  const std::unique_ptr<net::Stream> stream_;
  block::Export& export_;
  Executor& executor_;
  SessionShared& shared_;
  LoopResources* resources_ = nullptr;

  // What the client was told.
  const uint32_t max_payload_bytes_;
  const bool read_only_;
  const bool structured_;
  const std::vector<SelectedContext> contexts_;

  bool stopping_ = false;
  bool aborted_ = false;
  bool stalled_ = false;

  // Of the reader.
  ByteView input_;               // received, not taken apart yet; in the receive buffer or in kept_
  std::vector<std::byte> kept_;  // input across a pause
  std::array<std::byte, proto::kRequestBytes> partial_header_;
  size_t partial_header_bytes_ = 0;
  uint64_t size_bytes_ = 0;  // of the export, as of this batch
  ByteBudget::Acquisition* acquisition_ = nullptr;
  RoomWait* room_wait_ = nullptr;

  // In flight.
  uint32_t requests_in_flight_ = 0;
  uint64_t bytes_in_flight_ = 0;
  uint64_t requests_count_ = 0;

  StallWatch receive_stall_;
  StallWatch send_stall_;
  ReplyWriter writer_;
  TaskScope requests_;
  TaskScope tasks_;
};

}  // namespace fdbnbd::session
