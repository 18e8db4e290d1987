#pragma once

#include <memory>
#include <string>

#include "async/task.h"
#include "block/export.h"
#include "net/stream.h"
#include "session/negotiator.h"

namespace fdbnbd::session {

struct Handshaken {
  Agreement agreement;
  std::shared_ptr<block::Export> exported;
  std::string early_bytes;  // the client's first requests, as far as they came along
};

// Drives the Negotiator over `stream`, on its executor, up to the transmission phase. Errors: timeout where
// it took longer than `timeout`, from the first byte on; peer_gone (also for a client that was done: LIST and
// ABORT); protocol; what the registry said to EXPORT_NAME. After an error the stream is closed. A close() of
// the stream by somebody else ends it with Errc::cancelled.
Task<Result<Handshaken>> shake_hands(net::Stream& stream, Executor& executor, block::ExportRegistry& exports,
                                     TlsPolicy tls, Duration timeout);

}  // namespace fdbnbd::session
