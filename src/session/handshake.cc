#include "session/handshake.h"

#include <array>
#include <utility>
#include <variant>

#include "base/assert.h"
#include "base/limits.h"

namespace fdbnbd::session {

namespace {

constexpr size_t kHandshakeReceiveBytes = 4096;

// Closes the stream when the time is up.
class Deadline final : private TimerWork {
 public:
  Deadline(Executor& executor, net::Stream& stream, Duration timeout) : executor_(executor), stream_(stream) {
    executor_.start_timer(*this, timeout);
  }
  ~Deadline() { executor_.cancel_timer(*this); }
  Deadline(const Deadline&) = delete;
  Deadline& operator=(const Deadline&) = delete;

  bool passed() const { return passed_; }

 private:
  void run() noexcept override {
    passed_ = true;
    stream_.close();
  }

  Executor& executor_;
  net::Stream& stream_;
  bool passed_ = false;
};

struct HandshakeState {
  HandshakeState(net::Stream& stream_given, Executor& executor_given, block::ExportRegistry& exports_given,
                 TlsPolicy tls)
      : stream(stream_given), executor(executor_given), exports(exports_given), negotiator(tls) {}

  net::Stream& stream;
  Executor& executor;
  block::ExportRegistry& exports;
  Negotiator negotiator;
  std::array<std::byte, kHandshakeReceiveBytes> received;
  ByteView input;  // in `received`, not consumed yet
  std::shared_ptr<block::Export> exported;
};

Task<Result<void>> send_output(HandshakeState& state) {
  while (state.negotiator.has_output()) {
    const std::string output = state.negotiator.take_output();
    CO_RETURN_IF_ERROR(co_await state.stream.write_all(as_bytes(output)));
  }
  co_return Result<void>();
}

Task<Result<void>> receive_input(HandshakeState& state) {
  if (state.input.empty()) {
    const auto count = co_await state.stream.read_some(state.received);
    if (!count) co_return tl::unexpected(count.error());
    if (*count == 0) co_return fail(Errc::peer_gone, "the client closed the connection during the handshake");
    state.input = ByteView(state.received).first(*count);
  }
  state.input = state.input.subspan(state.negotiator.feed(state.input));
  co_return Result<void>();
}

Task<void> answer_query(HandshakeState& state) {
  const Query query = state.negotiator.query();
  if (std::holds_alternative<ListQuery>(query)) {
    auto listed = co_await state.exports.list(state.executor);
    state.negotiator.on_listed(std::move(listed));
  } else if (const auto* const describe = std::get_if<DescribeQuery>(&query)) {
    const auto described = co_await state.exports.describe(state.executor, describe->export_name);
    state.negotiator.on_described(described);
  } else {
    auto opened = co_await state.exports.open(state.executor, std::get<OpenQuery>(query).export_name);
    if (opened) {
      state.exported = std::move(*opened);
      state.negotiator.on_opened(state.exported->info());
    } else {
      state.negotiator.on_opened(propagate(opened));
    }
  }
}

// Lets the last words reach the client: a close with bytes unread would make TCP take them back.
Task<void> close_gently(HandshakeState& state) {
  state.stream.shutdown_write();
  for (;;) {
    const auto count = co_await state.stream.read_some(state.received);
    if (!count || *count == 0) co_return;
  }
}

Task<Result<Handshaken>> negotiate(HandshakeState& state, Deadline& deadline) {
  for (;;) {
    CO_RETURN_IF_ERROR(co_await send_output(state));
    switch (state.negotiator.step()) {
      case Negotiator::Step::input:
        CO_RETURN_IF_ERROR(co_await receive_input(state));
        break;
      case Negotiator::Step::query:
        co_await answer_query(state);
        if (deadline.passed()) co_return fail(Errc::timeout, "");
        break;
      case Negotiator::Step::start_tls:
        co_return fail(Errc::protocol, "TLS is not offered here");
      case Negotiator::Step::transmission:
        co_return Handshaken{.agreement = state.negotiator.take_agreement(),
                             .exported = std::move(state.exported),
                             .early_bytes = std::string(as_text(state.input))};
      case Negotiator::Step::closed: {
        const Deadline patience(state.executor, state.stream, limits::kLingerTimeout);
        co_await close_gently(state);
        co_return tl::unexpected(state.negotiator.close_reason());
      }
    }
  }
}

}  // namespace

Task<Result<Handshaken>> shake_hands(net::Stream& stream, Executor& executor, block::ExportRegistry& exports,
                                     TlsPolicy tls, Duration timeout) {
  HandshakeState state(stream, executor, exports, tls);
  Deadline deadline(executor, stream, timeout);
  auto result = co_await negotiate(state, deadline);
  if (!result) {
    stream.close();
    if (deadline.passed()) co_return fail(Errc::timeout, "the handshake took too long");
  }
  co_return result;
}

}  // namespace fdbnbd::session
