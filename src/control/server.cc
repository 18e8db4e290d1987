#include "control/server.h"

#include <array>
#include <utility>

#include "base/bytes.h"
#include "base/log.h"
#include "control/connection.h"

namespace fdbnbd::control {

class ControlServer::CutOff final : public TimerWork {
 public:
  explicit CutOff(ControlServer& server) : server_(server) {}
  void run() noexcept override {
    for (const auto& connection : server_.connections_) connection->cut_off();
  }

 private:
  ControlServer& server_;
};

ControlServer::ControlServer(Executor& executor, Service& service, StartNbd start_nbd,
                             uint32_t connections_limit)
    : executor_(executor),
      service_(service),
      start_nbd_(std::move(start_nbd)),
      connections_limit_(connections_limit) {}

ControlServer::~ControlServer() = default;

void ControlServer::serve(std::unique_ptr<net::Stream> stream) {
  if (stopping_) return;
  if (connections_.size() >= connections_limit_) {
    log::warning("control connection of {} refused: there are {} already", stream->peer(),
                 connections_.size());
    const std::string line = encode_error({Errc::busy, "the server has too many control connections"});
    const std::array parts = {as_bytes(line)};
    (void)stream->try_write(parts);  // a new socket has room for it
    return;
  }
  connections_.push_back(std::make_unique<Connection>(executor_, service_, std::move(stream)));
  tasks_.spawn(run(std::prev(connections_.end())));
}

Task<void> ControlServer::run(std::list<std::unique_ptr<Connection>>::iterator connection) {
  std::unique_ptr<net::Stream> nbd = co_await (*connection)->run();
  connections_.erase(connection);
  if (nbd && !stopping_) start_nbd_(std::move(nbd));
}

Task<void> ControlServer::stop() {
  stopping_ = true;
  for (const auto& connection : connections_) connection->stop();
  CutOff cut_off(*this);
  executor_.start_timer(cut_off, limits::kLingerTimeout);
  co_await tasks_.join();
  executor_.cancel_timer(cut_off);
}

}  // namespace fdbnbd::control
