#include "server/read_only_exports.h"

#include <utility>

namespace fdbnbd::server {

namespace {

tl::unexpected<Error> read_only() {
  return fail(Errc::read_only, "the server serves its volumes read-only");
}

class ReadOnlyExport final : public block::Export {
 public:
  explicit ReadOnlyExport(std::shared_ptr<block::Export> inner) : inner_(std::move(inner)) {}

  Executor& executor() override { return inner_->executor(); }
  block::ExportInfo info() const override {
    block::ExportInfo info = inner_->info();
    info.read_only = true;
    return info;
  }
  Task<Result<std::vector<block::ReadSegment>>> read(uint64_t offset_bytes, MutableByteView into) override {
    return inner_->read(offset_bytes, into);
  }
  Task<Result<void>> write(uint64_t /*offset_bytes*/, ByteView /*data*/,
                           block::WriteOptions /*options*/) override {
    co_return read_only();
  }
  Task<Result<void>> flush() override { return inner_->flush(); }
  Task<Result<void>> trim(uint64_t /*offset_bytes*/, uint64_t /*length_bytes*/,
                          block::WriteOptions /*options*/) override {
    co_return read_only();
  }
  Task<Result<void>> write_zeroes(uint64_t /*offset_bytes*/, uint64_t /*length_bytes*/,
                                  block::ZeroOptions /*options*/) override {
    co_return read_only();
  }
  Task<Result<void>> cache(uint64_t offset_bytes, uint64_t length_bytes) override {
    return inner_->cache(offset_bytes, length_bytes);
  }
  Task<Result<std::vector<block::StatusExtent>>> block_status(uint64_t offset_bytes, uint64_t length_bytes,
                                                              uint32_t extents_limit) override {
    return inner_->block_status(offset_bytes, length_bytes, extents_limit);
  }

  Task<Result<std::vector<block::FlaggedExtent>>> topic_status(block::StatusTopic topic,
                                                               uint64_t offset_bytes, uint64_t length_bytes,
                                                               uint32_t extents_limit) override {
    return inner_->topic_status(std::move(topic), offset_bytes, length_bytes, extents_limit);
  }

 private:
  const std::shared_ptr<block::Export> inner_;
};

}  // namespace

Task<Result<std::vector<block::ExportListing>>> ReadOnlyExports::list(Executor& executor) {
  return exports_.list(executor);
}

Task<Result<std::shared_ptr<block::Export>>> ReadOnlyExports::open(Executor& executor, std::string name) {
  ASSIGN_OR_CO_RETURN(std::shared_ptr<block::Export> inner,
                      co_await exports_.open(executor, std::move(name)));
  co_return std::make_shared<ReadOnlyExport>(std::move(inner));
}

Task<Result<block::ExportInfo>> ReadOnlyExports::describe(Executor& executor, std::string name) {
  ASSIGN_OR_CO_RETURN(block::ExportInfo info, co_await exports_.describe(executor, std::move(name)));
  info.read_only = true;
  co_return info;
}

}  // namespace fdbnbd::server
