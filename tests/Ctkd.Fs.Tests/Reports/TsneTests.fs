module Ctkd.Fs.Tests.TsneTests

open System
open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open FsCheck.FSharp

/// So many points of a dimension around each of the centres, all of standard deviation 1.
let private clusters (seed: int) (each: int) (dimension: int) (centres: float list) : float[][] =
    let noise = Rng.ofSeed seed |> Rng.normals (centres.Length * each * dimension)

    [|
        for c, centre in List.indexed centres do
            for i in 0 .. each - 1 ->
                Array.init dimension (fun k -> noise[(c * each + i) * dimension + k] + (if k = 0 then centre else 0.0))
    |]

let private points =
    gen {
        let! seed = Gen.choose (0, 1_000_000)
        let! count = Gen.choose (8, 40)
        let! dimension = Gen.choose (1, 6)
        let! perplexity = uniform 1.5 (float count / 2.0)
        return perplexity, clusters seed count dimension [ 0.0 ]
    }

/// The divergence at the start and at the end, of two clusters.
let private divergences (seed: int) : float * float =
    let points = clusters seed 20 5 [ 0.0; 8.0 ]
    let options = { Tsne.defaults with Perplexity = 8.0; Iterations = 400; Seed = seed }
    let p = Tsne.joint 8.0 points
    Tsne.divergence p (Tsne.start seed points.Length), Tsne.divergence p (Tsne.run options points)

let tests =
    testList "Tsne" [
        testProperty "P is symmetric, without a diagonal, not negative, and sums to 1"
        <| forAll
            points
            (fun (perplexity, points) ->
                let p = Tsne.joint perplexity points
                Must.beNear 1e-12 0.0 1.0 (p |> Array.sumBy Array.sum)

                for value in Array.concat p do
                    Must.hold (value >= 0.0)

                for i in [ 0 .. points.Length - 1 ] do
                    Must.equal 0.0 (p[i][i])

                Must.beSame (Array.concat p) (p |> Array.transpose |> Array.concat)
            )

        testProperty "every point reaches the perplexity that is asked for"
        <| forAll
            points
            (fun (perplexity, points) ->
                for row in Tsne.conditionals perplexity points do
                    Must.beNear 1e-12 0.0 1.0 (Array.sum row)
                    let entropy = -(row |> Array.sumBy (fun p -> if p > 0.0 then p * log p else 0.0))
                    Must.beNear 1e-5 0.0 perplexity (exp entropy)
            )

        testPropertyWithConfig (times 5) "the divergence falls from the start to the end, and is never negative"
        <| forAll
            (Gen.choose (0, 1000))
            (fun seed ->
                let before, after = divergences seed
                Expect.isTrue (after >= -1e-12 && after < before) $"{before} to {after}"
            )

        test "the divergence of two clusters is more than halved" {
            // From some starts clusters cross and stay entangled: how far it falls is a matter of the seed.
            for seed in 1..3 do
                let before, after = divergences seed
                Expect.isTrue (after < 0.5 * before) $"{before} to {after}"
        }

        testPropertyWithConfig (times 3) "clusters that are apart stay apart"
        <| forAll
            (Gen.choose (0, 1000))
            (fun seed ->
                let each = 25
                let points = clusters seed each 4 [ 0.0; 40.0; 80.0 ]
                let places = Tsne.run { Tsne.defaults with Perplexity = 8.0; Seed = seed } points

                let distance i j =
                    let struct (x, y), struct (u, v) = places[i], places[j]
                    sqrt ((x - u) * (x - u) + (y - v) * (y - v))

                let others i = [ 0 .. places.Length - 1 ] |> List.filter ((<>) i)

                for i in 0 .. places.Length - 1 do
                    Must.equal (i / each) ((others i |> List.minBy (distance i)) / each)

                let group c = [ c * each .. (c + 1) * each - 1 ]
                let pairs = List.allPairs (group 0) (group 1)

                let within = List.allPairs (group 0) (group 0) |> List.map (fun (i, j) -> distance i j) |> List.max

                let nearest = pairs |> List.map (fun (i, j) -> distance i j) |> List.min
                Expect.isTrue (nearest > 0.5 * within) $"{nearest} between, {within} within"
            )

        test "a picture is a function of points and options, centred at the origin" {
            let points = clusters 1 10 3 [ 0.0; 5.0 ]
            let options = { Tsne.defaults with Perplexity = 5.0; Iterations = 60 }
            let places = Tsne.run options points
            Must.equal places (Tsne.run options points)
            Must.differ places (Tsne.run { options with Seed = 2 } points)
            Must.beNear 0.0 1e-9 0.0 (places |> Array.averageBy (fun struct (x, _) -> x))
            Must.beNear 0.0 1e-9 0.0 (places |> Array.averageBy (fun struct (_, y) -> y))
        }

        test "points that all are one give finite places" {
            let places =
                Tsne.run { Tsne.defaults with Perplexity = 3.0; Iterations = 50 } (Array.create 8 [| 1.0; 2.0 |])

            for (struct (x, y)) in places do
                Must.hold (Double.IsFinite x && Double.IsFinite y)
        }

        test "wrong points and options are refused by name" {
            let points = clusters 1 10 3 [ 0.0 ]
            Must.refuse "points" (fun () -> Tsne.run Tsne.defaults (Array.truncate 2 points))
            Must.refuse "perplexity" (fun () -> Tsne.run Tsne.defaults points)
            Must.refuse "perplexity" (fun () -> Tsne.joint 1.0 points)
            Must.refuse "options" (fun () -> Tsne.run { Tsne.defaults with Iterations = 0 } points)
            points[3][0] <- nan
            Must.refuse "points" (fun () -> Tsne.joint 3.0 points)
        }
    ]
