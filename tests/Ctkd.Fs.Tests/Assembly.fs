module Ctkd.Fs.Tests.Assembly

open Xunit

// libtorch uses every processor for one operator, and live-tensor counts are of the whole process:
// two tests at once would be slower and would disturb each other.
[<assembly: CollectionBehavior(DisableTestParallelization = true)>]
do ()
