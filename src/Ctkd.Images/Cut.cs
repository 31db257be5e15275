namespace Ctkd.Images;

/// <summary>
/// Which part of a photograph becomes which pixels: the box is resized to <c>ResizedHeight</c> x <c>ResizedWidth</c>, and the
/// window of that, which has the size of the result, is taken.
/// </summary>
/// <param name="Top">First row of the box.</param>
/// <param name="Left">First column of the box.</param>
/// <param name="Height">Rows of the box.</param>
/// <param name="Width">Columns of the box.</param>
/// <param name="ResizedHeight">Rows of the whole resized box.</param>
/// <param name="ResizedWidth">Columns of the whole resized box.</param>
/// <param name="WindowTop">First row of the window in the resized box.</param>
/// <param name="WindowLeft">First column of the window in the resized box.</param>
/// <param name="Mirror">Whether the window is mirrored left to right.</param>
public readonly record struct Cut(
    int Top, int Left, int Height, int Width,
    int ResizedHeight, int ResizedWidth, int WindowTop, int WindowLeft, bool Mirror);

/// <summary>
/// Chooses the cut of a photograph, from several threads at once: it depends on nothing but these numbers.
/// </summary>
/// <param name="position">Place in the order of the epoch, by which random numbers are drawn.</param>
/// <param name="height">Rows of the photograph.</param>
/// <param name="width">Columns of the photograph.</param>
public delegate Cut CutChooser(int position, int height, int width);
